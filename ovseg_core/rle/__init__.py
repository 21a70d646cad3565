"""Masks as run-length encodings (RLE), and what is computed from them without pixels."""
