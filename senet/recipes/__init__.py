"""Recipes: how a network is trained, as plain data; one file per data set. Importing this loads no torch."""
