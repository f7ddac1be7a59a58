"""Experiments: rows x seeds as one frozen value, one runner for all of them, one typed result."""
