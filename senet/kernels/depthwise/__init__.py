"""Depthwise convolutions with activation and squeeze."""
