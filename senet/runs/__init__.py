"""What a run leaves behind: every file name, its writer and its typed reader."""
