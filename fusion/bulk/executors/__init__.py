"""Executors: run the rows of a map in slices, here or elsewhere."""
