"""Masks as runs: COCO RLE and what is computed without pixels."""
