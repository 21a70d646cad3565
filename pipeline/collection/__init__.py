"""From a collection's address to images: listing, manifest, decoding."""
