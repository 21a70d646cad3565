"""Masks drawn over an image, each label in its colour and with its name."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ovseg_core.images.label_colours import label_colours
from ovseg_core.images.lettering import font, text_width
from ovseg_core.images.resize.nearest import SizeHW, to_size

_OPACITY = 0.55
_GREYED = 0.6
"""Share of its colour that the image gives up, so that the masks' colours can be told apart."""
_TEXT_SHARE = 1 / 14
"""Height of a name beside the shorter side of the picture."""
_MIN_TEXT_PX, _MAX_TEXT_PX = 10, 28
_MIN_DEPTH_PX = 3
"""A mask that is thinner everywhere has no name: it would be hidden by it."""


def overlay(
    rgb: NDArray[np.uint8],
    label_map: NDArray[np.integer],
    names: Sequence[str],
    *,
    write_names: bool = False,
    segments: NDArray[np.integer] | None = None,
) -> Image.Image:
    """Draw masks and their outlines over an image.

    Args:
        rgb: (h, w, 3).
        label_map: (H, W) of the same picture at any size; 0 shows the image, greyed.
        names: of the labels in vocabulary order; their colours follow from them.
        write_names: write each label where its mask, or the largest of its segments, is widest, and
            on each further segment that its name fits on.
        segments: as `label_map`, the number of each pixel's segment: outlines are theirs, so that
            instances of a label are told apart; None: of the labels.
    """
    size_hw = rgb.shape[0], rgb.shape[1]
    labels = to_size(label_map, size_hw)
    masks = np.asarray(tinted(label_map, size_hw, names, segments)).astype(np.float32)
    pixels = rgb.astype(np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels += _GREYED * (grey[..., None] - pixels)
    pixels += masks[..., 3:] / 255 * _OPACITY * (masks[..., :3] - pixels)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    if write_names:
        shown = labels if segments is None else to_size(segments, size_hw)
        _write_names(picture, labels, shown, names)
    return picture


def tinted(
    label_map: NDArray[np.integer],
    size_hw: SizeHW,
    names: Sequence[str],
    segments: NDArray[np.integer] | None = None,
) -> Image.Image:
    """Return the masks alone, RGBA at another size: opaque with dark rims, else transparent.

    Args:
        label_map: (H, W); 0 is transparent.
        size_hw: of the picture.
        names: of the labels in vocabulary order; their colours follow from them.
        segments: see `overlay`.
    """
    labels = to_size(label_map, size_hw)
    num_nameless = int(labels.max(initial=0)) - len(names)  # of rows that somebody else wrote
    colours = label_colours((*names, *[""] * num_nameless))
    painted = np.zeros((len(colours) + 1, 4), np.uint8)
    painted[1:] = [(*colour, 255) for colour in colours]
    pixels = painted[labels]
    rim = _differs(labels if segments is None else to_size(segments, size_hw))
    pixels[rim, :3] //= 2
    return Image.fromarray(pixels)


def _write_names(
    picture: Image.Image,
    labels: NDArray[np.integer],
    segments: NDArray[np.integer],
    names: Sequence[str],
) -> None:
    """Write labels where their segments are widest.

    A name is moved so that it stays in the picture, and up or down from a name that is there.
    """
    width, height = picture.size
    text_px = round(min(max(min(width, height) * _TEXT_SHARE, _MIN_TEXT_PX), _MAX_TEXT_PX))
    draw = ImageDraw.Draw(picture)
    number = np.where(labels > 0, labels.astype(np.int64) << 32 | segments.astype(np.int64), 0)
    found, sizes = np.unique(number[number > 0], return_counts=True)
    named: set[int] = set()
    written: list[tuple[int, int, int]] = []
    for wanted in found[np.argsort(-sizes, kind="stable")].tolist():
        label = wanted >> 32
        x0, y0, box_width, box_height = cv2.boundingRect((number == wanted).astype(np.uint8))
        mask = number[y0 : y0 + box_height, x0 : x0 + box_width] == wanted
        mask = np.pad(mask.astype(np.uint8), 1)  # the picture's rim is a rim
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[y, x] < _MIN_DEPTH_PX:
            continue
        name = str(names[label - 1])
        if label in named and box_width < text_width(name, text_px):
            continue
        named.add(label)
        half = text_width(name, text_px) // 2 + 2
        left = min(max(x0 + int(x) - 1, half), max(width - half, half))
        wanted_top = min(max(y0 + int(y) - 1, text_px // 2 + 2), height - text_px // 2 - 2)
        top = _free_top(written, (left - half, left + half, wanted_top), text_px + 2, height)
        written.append((left - half, left + half, top))
        draw.text(
            (left, top),
            name,
            (255, 255, 255),
            font(text_px),
            anchor="mm",
            stroke_width=max(1, text_px // 8),
            stroke_fill=(0, 0, 0),
        )


def _free_top(
    written: Sequence[tuple[int, int, int]], name: tuple[int, int, int], line_px: int, height: int
) -> int:
    """Return the nearest height at which a name covers none, as wanted if there is none nearby.

    Args:
        written: left, right and middle of each name that is there.
        name: the same of this one.
        line_px: height of a line.
        height: of the picture.
    """
    left, right, wanted = name
    beside = [middle for start, end, middle in written if start < right and left < end]
    for away in range(2 * line_px):
        for top in (wanted - away, wanted + away):
            in_picture = line_px // 2 <= top <= height - line_px // 2
            if in_picture and all(abs(top - middle) >= line_px for middle in beside):
                return top
    return wanted


def _differs(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return where a pixel has another label than one of its four neighbours."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        step = np.diff(labels.astype(np.int32), axis=axis) != 0
        ahead, behind = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        ahead[axis], behind[axis] = (0, 1), (1, 0)
        edge |= np.pad(step, ahead) | np.pad(step, behind)
    return edge
