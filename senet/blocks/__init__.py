"""Floor 3, the bricks that networks are made of."""
