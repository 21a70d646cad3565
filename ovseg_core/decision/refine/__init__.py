"""Refinements of an image's scores and labels: PAMR, votes of regions, masks redrawn by SAM."""
