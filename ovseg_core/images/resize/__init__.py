"""Resizes of images and score maps as published, on any device, equal to the originals' results."""
