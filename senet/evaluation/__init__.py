"""Evaluate trained networks: errors, calibration, crops, ensembles, single images."""
