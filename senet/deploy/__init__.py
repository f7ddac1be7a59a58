"""A trained network made ready to run: the same function in fewer passes over memory."""
