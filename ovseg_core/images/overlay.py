"""Masks drawn over an image, each label in a colour of its own that is the same everywhere."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg_core.resize.nearest import SizeHW, to_size

Rgb = tuple[int, int, int]

_OPACITY = 0.55
_GREYED = 0.6
"""Share of its colour that the image gives up, so that the masks' colours can be told apart."""
_FIRST_COLOURS: tuple[Rgb, ...] = (
    (230, 25, 75), (0, 130, 200), (245, 165, 0), (60, 180, 75), (145, 30, 180), (0, 190, 190),
    (240, 50, 230), (154, 99, 36), (128, 128, 0), (0, 0, 160), (250, 120, 90), (120, 200, 20),
    (110, 80, 255), (0, 110, 90), (170, 0, 60), (255, 215, 30), (90, 160, 255), (200, 120, 200),
)  # fmt: skip
_GOLDEN_TURN = 0.618034


def colour(label: int) -> Rgb:
    """Return the colour of label `label`, counted from 1."""
    if label <= len(_FIRST_COLOURS):
        return _FIRST_COLOURS[label - 1]
    value = (0.95, 0.6, 0.78)[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN_TURN % 1, 0.75, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def hex_colour(label: int) -> str:
    """Return the colour of a label as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour(label))


def overlay(rgb: NDArray[np.uint8], label_map: NDArray[np.integer]) -> Image.Image:
    """Draw masks and their outlines over an image.

    Args:
        rgb: (h, w, 3).
        label_map: (H, W) of the same picture at any size; 0 shows the image, greyed.
    """
    masks = np.asarray(tinted(label_map, (rgb.shape[0], rgb.shape[1]))).astype(np.float32)
    pixels = rgb.astype(np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels += _GREYED * (grey[..., None] - pixels)
    pixels += masks[..., 3:] / 255 * _OPACITY * (masks[..., :3] - pixels)
    return Image.fromarray(pixels.round().astype(np.uint8))


def tinted(label_map: NDArray[np.integer], size_hw: SizeHW) -> Image.Image:
    """Return the masks alone, RGBA at another size: opaque with dark rims, else transparent."""
    labels = to_size(label_map, size_hw)
    colours = np.zeros((int(labels.max()) + 1, 4), np.uint8)
    for label in np.unique(labels[labels > 0]).tolist():
        colours[label] = (*colour(label), 255)
    pixels = colours[labels]
    rim = _differs(labels)
    pixels[rim, :3] //= 2
    return Image.fromarray(pixels)


def _differs(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return where a pixel has another label than one of its four neighbours."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        step = np.diff(labels.astype(np.int32), axis=axis) != 0
        ahead, behind = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        ahead[axis], behind[axis] = (0, 1), (1, 0)
        edge |= np.pad(step, ahead) | np.pad(step, behind)
    return edge
