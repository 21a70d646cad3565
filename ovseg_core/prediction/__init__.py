"""Masks in Python: a method with its networks loaded, and what it returns."""
