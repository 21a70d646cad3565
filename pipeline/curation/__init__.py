"""Choosing among the images of a run: near-duplicates, samples, splits, search."""
