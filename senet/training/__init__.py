"""Floor 6, training: runs of one network and controlled comparisons of several, on Lightning's Trainer."""
