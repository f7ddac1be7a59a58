"""Detection with an SE backbone: Table 7 of arXiv:1709.01507v4, on torchvision."""
