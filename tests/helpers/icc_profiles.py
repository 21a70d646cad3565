"""Small ICC profiles: other primaries and curves, grey, four inks."""

import struct
from itertools import product

from ovseg_core.images.decoding.color_profile import icc_file, rgb_profile

_D65 = (0.3127, 0.3290)
_RED, _GREEN, _BLUE = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_WHITE = struct.pack(">4s4x3i", b"XYZ ", *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)))

SRGB = rgb_profile("My sRGB", (*_D65, *_RED, *_GREEN, *_BLUE), _SRGB_CURVE)
SWAPPED = rgb_profile("Swapped Red and Green", (*_D65, *_GREEN, *_RED, *_BLUE), _SRGB_CURVE)
"""sRGB with red and green exchanged: whoever ignores it sees other colours."""
DISPLAY_P3 = rgb_profile(
    "Display P3", (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060), _SRGB_CURVE
)
PROPHOTO = rgb_profile(
    "ProPhoto RGB", (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), 1.8
)
LINEAR = rgb_profile("Linear sRGB", (*_D65, *_RED, *_GREEN, *_BLUE), 1.0)


def _described(name: str) -> bytes:
    text = name.encode() + b"\0"
    return struct.pack(">4s4xI", b"desc", len(text)) + text + bytes(78)


def _grey() -> bytes:
    curve = struct.pack(">4s4xIH", b"curv", 1, 256)
    tags = [(b"kTRC", curve), (b"wtpt", _WHITE), (b"desc", _described("Linear Gray"))]
    return icc_file(b"mntr", b"GRAY", b"XYZ ", tags)


def _four_inks() -> bytes:
    """A table of 2 points per ink; each ink adds its share to lightness, a and b."""
    points = []
    for cyan, magenta, yellow, black in product((0, 1), repeat=4):
        lightness = 255 - 40 * cyan - 50 * magenta - 15 * yellow - 140 * black
        points += [lightness, 128 - 40 * cyan + 60 * magenta, 128 - 40 * cyan + 70 * yellow]
    line = bytes(range(256))
    table = struct.pack(">4s4xBBBx9i", b"mft1", 4, 3, 2, *(65536 * (i % 4 == 0) for i in range(9)))
    table += line * 4 + bytes(points) + line * 3
    tags = [(b"A2B0", table), (b"wtpt", _WHITE), (b"desc", _described("Four inks"))]
    return icc_file(b"prtr", b"CMYK", b"Lab ", tags)


LINEAR_GREY = _grey()
FOUR_INKS = _four_inks()
