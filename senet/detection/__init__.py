"""Detectors with an SE trunk: Table 7 of arXiv:1709.01507v4, on torchvision."""
