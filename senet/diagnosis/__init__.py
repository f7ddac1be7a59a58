"""Floor 5, health: is the SE in a network alive and in its place?"""
