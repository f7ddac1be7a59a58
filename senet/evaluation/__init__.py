"""Floor 6, evaluation: what a trained network gets wrong, and what it says of single images."""
