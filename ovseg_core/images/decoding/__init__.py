"""From the content of an image file to pixels in sRGB, upright, with 8 bits."""
