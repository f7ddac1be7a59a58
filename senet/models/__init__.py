"""Networks, one file of tables per family. Importing this loads no torch; the module is in `network.py`."""
