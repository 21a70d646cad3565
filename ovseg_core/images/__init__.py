"""Batches of images, and local files of another tool that belong to an image."""
