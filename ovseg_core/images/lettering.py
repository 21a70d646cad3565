"""Colours and fonts of texts in pictures."""

from functools import cache

from PIL import ImageFont

INK, QUIET, PAPER = (33, 37, 41), (108, 117, 125), (255, 255, 255)
"""RGB of text, of text that is less important, and of the background."""
TEXT_PX = 14
"""Size of ordinary text."""


@cache
def font(size_px: int = TEXT_PX) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's own font."""
    return ImageFont.load_default(size_px)


def text_width(text: str, size_px: int = TEXT_PX) -> int:
    """Return the width of a text in pixels."""
    return round(font(size_px).getlength(text))
