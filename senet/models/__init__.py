"""Floor 4, the networks: each family a file of tables. Importing this loads no torch; `network.py` holds the module."""
