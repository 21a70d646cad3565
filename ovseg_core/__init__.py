"""Torch in, torch out: the segmenters and what is made of their scores.

Knows no Ray, no storage, no command line.
"""
