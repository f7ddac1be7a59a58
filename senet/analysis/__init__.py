"""Statistics and figures of a network's gates over a data set (arXiv:1709.01507v4, section 7.2)."""
