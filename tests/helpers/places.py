"""Places of images for tests in which they do not matter."""

from pipeline.storage.places import ImagePlaces

ANYWHERE = ImagePlaces(roots=None, follows_links=True, allow_private=True)
