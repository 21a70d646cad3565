"""Segments as single objects: average precision, panoptic quality, presence of labels."""
