"""Benchmarks: all sides in one process, in interleaved rounds, with their answers compared before timing."""
