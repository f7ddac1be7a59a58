"""Floor 6, analysis: what the gates of a network do over a data set (arXiv:1709.01507v4, section 7.2)."""
