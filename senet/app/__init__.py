"""A page to drop images on: the prediction, the gates, switches for the units."""
