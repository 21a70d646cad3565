"""Batches of images, and files that belong to an image."""
