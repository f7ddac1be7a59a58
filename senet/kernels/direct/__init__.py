"""Grouped convolutions and those of few channels, directly."""
