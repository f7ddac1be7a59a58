"""The blocks that networks are built from."""
