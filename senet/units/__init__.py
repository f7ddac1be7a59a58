"""Floor 2, the attention units: plain data in `config.py`, one module per file. Importing this loads no torch."""
