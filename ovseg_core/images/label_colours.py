"""One colour per label, the same on every page, picture and export of a vocabulary."""

import colorsys
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

Rgb = tuple[int, int, int]

_PALETTE: tuple[Rgb, ...] = (
    (230, 25, 75), (0, 130, 200), (245, 165, 0), (60, 180, 75), (145, 30, 180), (0, 190, 190),
    (240, 50, 230), (154, 99, 36), (128, 128, 0), (0, 0, 160), (250, 120, 90), (120, 200, 20),
    (110, 80, 255), (0, 110, 90), (170, 0, 60), (255, 215, 30), (90, 160, 255), (200, 120, 200),
)  # fmt: skip
_COLOUR_WORDS: dict[str, Rgb] = {
    "red": (225, 30, 45), "orange": (250, 135, 10), "yellow": (250, 215, 30),
    "green": (50, 165, 65), "cyan": (0, 200, 210), "turquoise": (30, 195, 180),
    "teal": (0, 128, 128), "blue": (40, 90, 225), "navy": (20, 30, 120), "purple": (140, 45, 185),
    "violet": (150, 80, 220), "magenta": (230, 30, 200), "pink": (250, 135, 190),
    "brown": (140, 85, 40), "beige": (215, 195, 155), "gold": (215, 170, 40),
    "white": (245, 245, 245), "silver": (190, 195, 200), "grey": (128, 128, 128),
    "gray": (128, 128, 128), "black": (35, 35, 35),
}  # fmt: skip
_SHADES = (1.0, 0.72, 1.3, 0.55, 1.5)
"""Brightness of the labels that say the same colour, one after the other."""
_MUTED = (0.0, 0.55, 0.3)
"""Share of grey in the shades' first turn, their second and their third."""
_HUELESS = 10
"""Greatest difference of red, green and blue in a colour without a hue: grey that is mixed in
changes nothing, so its labels differ by their brightness alone."""
_STEP, _BETWEEN, _DARKEST, _PALEST = 28, (0, 14, 7), 8, 252
"""Of colours without a hue: what the shades of a turn differ by, where the turns lie in between,
and the ends."""
_GOLDEN_TURN = 0.618034


@lru_cache(maxsize=64)
def _colours(names: tuple[str, ...]) -> tuple[Rgb, ...]:
    said: Counter[Rgb] = Counter()
    colours = []
    for number, name in enumerate(names, start=1):
        words = re.findall(r"\w+", name.casefold())
        own = next((_COLOUR_WORDS[word] for word in words if word in _COLOUR_WORDS), None)
        if own is None:
            colours.append(_numbered(number))
        else:
            turn, shade = divmod(said[own] % (len(_MUTED) * len(_SHADES)), len(_SHADES))
            if max(own) - min(own) <= _HUELESS:
                colours.append(_grey(own, turn, shade))
            else:
                colours.append(_muted(_shade(own, _SHADES[shade]), _MUTED[turn]))
            said[own] += 1
    return tuple(colours)


def label_colours(names: Sequence[str]) -> tuple[Rgb, ...]:
    """Return the colours of a vocabulary's labels.

    A label that says a colour, such as "red car", has that colour, in a shade of its own where
    several labels say it: a mask in another one would contradict its name. Fifteen labels can say
    one colour before a shade is used again.

    Args:
        names: of the labels in vocabulary order, without background.

    Returns:
        RGB, 0 to 255, of each label. They do not depend on labels that come later.
    """
    return _colours(tuple(names))


def css_colour(rgb: Rgb) -> str:
    """Return a colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _numbered(label: int) -> Rgb:
    """Return the colour of the label with this number, from 1."""
    if label <= len(_PALETTE):
        return _PALETTE[label - 1]
    value = (0.95, 0.6, 0.78)[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN_TURN % 1, 0.75, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _shade(rgb: Rgb, brightness: float) -> Rgb:
    """Return a darker (below 1) or paler (above 1) shade of a colour."""
    if brightness <= 1:
        red, green, blue = (round(part * brightness) for part in rgb)
    else:
        red, green, blue = (round(part + (255 - part) * (brightness - 1)) for part in rgb)
    return red, green, blue


def _muted(rgb: Rgb, share: float) -> Rgb:
    """Return a colour with a share of the grey that is as bright."""
    grey = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    red, green, blue = (round(part + (grey - part) * share) for part in rgb)
    return red, green, blue


def _grey(rgb: Rgb, turn: int, shade: int) -> Rgb:
    """Return a shade of a colour without a hue; those that are nearest to it come first."""
    inward = -1 if sum(rgb) > 3 * 128 else 1
    steps = sorted(range(-len(_SHADES), len(_SHADES) + 1), key=lambda step: (abs(step), -step))
    offsets = [inward * _STEP * step for step in steps]
    offsets = [
        offset
        for offset in offsets
        if min(rgb) + offset >= _DARKEST and max(rgb) + offset <= _PALEST
    ]
    offset = offsets[shade] + inward * _BETWEEN[turn]
    return rgb[0] + offset, rgb[1] + offset, rgb[2] + offset
