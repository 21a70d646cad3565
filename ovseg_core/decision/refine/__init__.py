"""Refinements of a whole image's scores and labels: PAMR, and votes of regions."""
