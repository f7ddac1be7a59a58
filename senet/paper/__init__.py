"""Floor 5, paper: its tables and figures as data, each row beside the network or recipe it is of; no torch."""
