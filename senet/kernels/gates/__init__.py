"""The gates of a unit from its squeeze."""
