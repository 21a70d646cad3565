"""Folders and files at any fsspec URL."""
