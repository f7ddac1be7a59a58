"""Attention units: their configs in `config.py`, one module per file. Importing this loads no torch."""
