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


def shortened_text(text: str, size_px: int, width: int) -> str:
    """Return a text that is no wider than this, cut at its end if need be."""
    if text_width(text, size_px) <= width:
        return text
    kept = next(
        (end for end in range(len(text), 0, -1) if text_width(f"{text[:end]}…", size_px) <= width),
        0,
    )
    return f"{text[:kept]}…"


def wrapped_text(text: str, size_px: int, width: int) -> list[str]:
    """Return the words of a text in lines that are no wider than this, if no word is."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size_px) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
