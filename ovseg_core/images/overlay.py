"""Masks drawn over an image, each label in its colour and with its name."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ovseg_core.images.label_colours import Rgb, label_colours
from ovseg_core.images.lettering import INK, PAPER, font, shortened_text, text_width, wrapped_text
from ovseg_core.images.resize.nearest import SizeHW, to_size

_OPACITY = 0.55
_GREYED = 0.6
"""Share of its colour that the image gives up, so that the masks' colours can be told apart."""
_TEXT_SHARE = 1 / 14
"""Height of a name beside the shorter side of the picture."""
_MIN_TEXT_PX, _MAX_TEXT_PX = 12, 28
_MIN_DEPTH_PX = 3
"""A mask that is thinner everywhere has no name on it: it would be hidden by it."""
_BARELY_HIDDEN = 0.12
"""Share of a mask that its own name may cover where it could stand beside it as well."""
_MOST_HIDDEN = 0.3, 0.6
"""The same where there is no room beside it; where there is no such place, the second."""
_MOST_COVERED = 0.05
"""Share of a plate beside its mask that may lie over masks."""
_NEARLY_FITS = 1.25
"""Width of a name, beside that of the mask, up to which further segments of a label have it."""
_LARGE_PART = 0.01
"""Share of the picture from which a part of a mask has a name of its own."""
_PLATE_RIM_PX, _PLATE_ALPHA = 3, 150
"""Of the dark plate under a name: what it is wider than the text at each side; of 255."""
_STRIPE_PX = 4
"""Width of the stripe in the label's colour at the left of a plate."""
_LEAST_SHOWN_SHARE = 0.001
_MIN_LEGEND_EMS, _MAX_LEGEND_LINES = 12, 3


class _Plate(NamedTuple):
    """Where a name stands in the picture."""

    left: int
    top: int
    right: int
    bottom: int


def overlay(
    rgb: NDArray[np.uint8],
    label_map: NDArray[np.integer],
    names: Sequence[str],
    *,
    write_names: bool = False,
    name_px: int = 0,
    segments: NDArray[np.integer] | None = None,
) -> Image.Image:
    """Draw masks and their outlines over an image.

    Args:
        rgb: (h, w, 3).
        label_map: (H, W) of the same picture at any size; 0 shows the image, greyed.
        names: of the labels in vocabulary order; their colours follow from them.
        write_names: write each label on the largest of its segments where that is widest, or
            above or below it where it would hide much of it, and on each further one that its name
            nearly fits on; labels that have no room for it are named below the image, with their
            share of it if that is small, so the picture may be larger than it.
        name_px: height of the names; 0: as the picture is large.
        segments: as `label_map`, the number of each pixel's segment: outlines are theirs, so that
            instances of a label are told apart; None: outlines are of the labels, names also on
            large parts of their masks.
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
        shown = _parts(labels) if segments is None else to_size(segments, size_hw)
        return _with_names(picture, labels, shown, names, name_px)
    return picture


def tinted(
    label_map: NDArray[np.integer],
    size_hw: SizeHW,
    names: Sequence[str],
    segments: NDArray[np.integer] | None = None,
    hollow: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Return the masks alone, RGBA at another size: opaque with dark rims, else transparent.

    Args:
        label_map: (H, W); 0 is transparent.
        size_hw: of the picture.
        names: of the labels in vocabulary order; their colours follow from them.
        segments: see `overlay`.
        hollow: (H, W), pixels of masks of which the outline alone is shown, in their own colour;
            None: all are filled.
    """
    labels = to_size(label_map, size_hw)
    num_nameless = int(labels.max(initial=0)) - len(names)  # of rows that somebody else wrote
    colours = label_colours((*names, *[""] * num_nameless))
    painted = np.zeros((len(colours) + 1, 4), np.uint8)
    painted[1:] = [(*colour, 255) for colour in colours]
    pixels = painted[labels]
    rim = _differs(labels if segments is None else to_size(segments, size_hw))
    if hollow is None:
        pixels[rim, :3] //= 2
    else:
        is_hollow = to_size(hollow.astype(np.uint8), size_hw) > 0
        pixels[rim & ~is_hollow, :3] //= 2
        pixels[is_hollow & ~_with_neighbours(rim)] = 0
    return Image.fromarray(pixels)


def _with_names(
    picture: Image.Image,
    labels: NDArray[np.integer],
    segments: NDArray[np.integer],
    names: Sequence[str],
    name_px: int,
) -> Image.Image:
    """Return a picture with labels on or beside their segments; the others named below it.

    A name is moved so that it stays in the picture, and up or down from a name that is there and
    off a mask that it would hide.
    """
    width, height = picture.size
    by_size = min(max(min(width, height) * _TEXT_SHARE, _MIN_TEXT_PX), _MAX_TEXT_PX)
    text_px = name_px or round(by_size)
    number = np.where(labels > 0, labels.astype(np.int64) << 32 | segments.astype(np.int64), 0)
    found, sizes = np.unique(number[number > 0], return_counts=True)
    nameless: dict[int, None] = {}  # in the order of their largest masks
    named: set[int] = set()
    written: list[_Plate] = []
    colours = label_colours(names)
    for wanted in found[np.argsort(-sizes, kind="stable")].tolist():
        label = wanted >> 32
        if label > len(names) or not names[label - 1]:
            continue
        name, mask = str(names[label - 1]), number == wanted
        box_width = cv2.boundingRect(mask.astype(np.uint8))[2]
        if label in named and text_width(name, text_px) > _NEARLY_FITS * box_width:
            continue
        lines = _lines(name, text_px, width - 2 * _PLATE_RIM_PX - _STRIPE_PX)
        size_hw = _plate_size(lines, text_px) if lines else (0, 0)
        plate = _place(mask, labels > 0, size_hw, written) if lines else None
        if plate:
            named.add(label)
            written.append(plate)
            _write(picture, plate, lines, text_px, colours[label - 1])
        else:
            nameless[label] = None
    missing = [label for label in nameless if label not in named]
    if not missing:
        return picture
    shares = [np.count_nonzero(labels == label) / labels.size for label in missing]
    texts = [
        f"{names[label - 1]}{_share_text(share)}"
        for label, share in zip(missing, shares, strict=True)
    ]
    return _with_legend(picture, [colours[label - 1] for label in missing], texts, text_px)


def _share_text(share: float) -> str:
    """Return a share of the image, for behind a name that does not stand at its mask."""
    if share >= 0.1:
        return f" {share:.0%}"
    return f" {share:.1%}" if share >= _LEAST_SHOWN_SHARE else f" <{_LEAST_SHOWN_SHARE:.1%}"


def _parts(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return as segments the connected parts of each label; small ones belong to its largest."""
    parts = np.zeros(labels.shape, np.int32)
    for label in np.unique(labels[labels > 0]).tolist():
        mask = (labels == label).astype(np.uint8)
        count, found, stats, _ = cv2.connectedComponentsWithStats(mask)
        areas = stats[1:, cv2.CC_STAT_AREA]
        is_large = areas >= _LARGE_PART * labels.size
        number_of = np.where(is_large, np.arange(1, count), 1 + areas.argmax())
        parts += np.concatenate(([0], number_of)).astype(np.int32)[found]
    return parts


def _lines(name: str, text_px: int, width: int) -> list[str]:
    """Return a name in as many lines as it needs; none if one of its words is wider."""
    lines = wrapped_text(name, text_px, width)
    fits = all(text_width(line, text_px) <= width for line in lines)
    return lines if fits else []


def _plate_size(lines: Sequence[str], text_px: int) -> SizeHW:
    """Return height and width of the plate under a name."""
    wide = max(text_width(line, text_px) for line in lines)
    return len(lines) * _line_px(text_px), wide + 2 * _PLATE_RIM_PX + _STRIPE_PX


def _line_px(text_px: int) -> int:
    return round(text_px * 1.25)


def _place(
    mask: NDArray[np.bool_], masks: NDArray[np.bool_], plate_hw: SizeHW, written: Sequence[_Plate]
) -> _Plate | None:
    """Return where a name stands: near where its mask is widest, or above or below a small mask.

    Args:
        mask: (H, W) of the picture.
        masks: all masks, (H, W).
        plate_hw: of the name's plate.
        written: those that are there; it covers none.

    Returns:
        None: it has room nowhere near.
    """
    (height, width), (high, wide) = mask.shape, plate_hw
    pixels = mask.astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(pixels, 1), cv2.DIST_L2, 3)  # the picture's rim is a rim
    y, x = (int(at) for at in np.unravel_index(int(depth[1:-1, 1:-1].argmax()), mask.shape))
    if depth[y + 1, x + 1] < _MIN_DEPTH_PX or high > height or wide > width:
        return None
    _, parts = cv2.connectedComponents(pixels)
    # Between two parts of a mask a name would be beside neither.
    x0, y0, box_width, box_height = cv2.boundingRect((parts == parts[y, x]).astype(np.uint8))
    left = min(max(x - wide // 2, 0), width - wide)
    wanted = min(max(y - high // 2, 0), height - high)
    tops = [wanted + sign * away for away in range(2 * high) for sign in (-1, 1)]
    over = [_Plate(left, top, left + wide, top + high) for top in tops]
    left = min(max(x0 + (box_width - wide) // 2, 0), width - wide)
    tops = [y0 - high, y0 + box_height]
    beside = [_Plate(left, top, left + wide, top + high) for top in tops]
    over, beside = ([one for one in of if _is_free(one, height, written)] for of in (over, beside))
    num_px = np.count_nonzero(mask)
    if over and _covered(mask, over[0]) / num_px <= _BARELY_HIDDEN:
        return over[0]
    for plate in beside:
        if _covered(masks, plate) <= _MOST_COVERED * high * wide:
            return plate
    hidden = [_covered(mask, one) / num_px for one in over]
    for share in _MOST_HIDDEN:
        for plate, covered in zip(over, hidden, strict=True):
            if covered <= share:
                return plate
    return None


def _is_free(plate: _Plate, height: int, written: Sequence[_Plate]) -> bool:
    """Return whether a plate is in the picture and covers no other."""
    return (
        plate.top >= 0
        and plate.bottom <= height
        and not any(
            one.left < plate.right
            and plate.left < one.right
            and one.top < plate.bottom
            and plate.top < one.bottom
            for one in written
        )
    )


def _covered(mask: NDArray[np.bool_], plate: _Plate) -> int:
    """Return how many pixels of a mask a plate lies over."""
    return int(np.count_nonzero(mask[plate.top : plate.bottom, plate.left : plate.right]))


def _write(
    picture: Image.Image, plate: _Plate, lines: Sequence[str], text_px: int, colour: Rgb
) -> None:
    """Write a name on a dark plate: an outline of its letters would fill the gaps of small ones.

    A stripe in the label's colour says whose name it is where that stands beside its mask.
    """
    size = plate.right - plate.left, plate.bottom - plate.top
    picture.paste((0, 0, 0), (plate.left, plate.top), Image.new("L", size, _PLATE_ALPHA))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((plate.left, plate.top, plate.left + _STRIPE_PX - 1, plate.bottom - 1), colour)
    for place, line in enumerate(lines):
        middle = plate.top + round((place + 0.5) * _line_px(text_px))
        at = (plate.left + _STRIPE_PX + plate.right) / 2, middle
        draw.text(at, line, (255, 255, 255), font(text_px), anchor="mm")


def _with_legend(
    picture: Image.Image,
    colours: Sequence[tuple[int, int, int]],
    texts: Sequence[str],
    text_px: int,
) -> Image.Image:
    """Return a picture with colours and the texts that explain them below it."""
    line_px, gap = round(text_px * 1.4), text_px // 2
    width = max(picture.width, _MIN_LEGEND_EMS * text_px)
    room = width - text_px - gap
    places: list[tuple[int, int, tuple[int, int, int] | None, str]] = []  # line, left, ...
    line, left = 0, 0
    for colour, text in zip(colours, texts, strict=True):
        shown = shortened_text(text, text_px, room)
        wide = text_px + text_width(shown, text_px)
        if left and left + wide > width:
            line, left = line + 1, 0
        if line == _MAX_LEGEND_LINES:
            line = line - 1
            places = [one for one in places if one[0] < line]
            places.append((line, 0, None, f"and {len(texts) - len(places)} more"))
            break
        places.append((line, left, colour, shown))
        left += wide + 2 * gap
    high = picture.height + gap + (line + 1) * line_px
    whole = Image.new("RGB", (width, high), PAPER)
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for line, left, colour, text in places:
        middle = picture.height + gap + line * line_px + line_px // 2
        if colour:
            swatch = (left, middle - gap + 1, left + text_px - 4, middle - gap + text_px - 3)
            draw.rectangle(swatch, colour)
        draw.text((left + text_px * bool(colour), middle), text, INK, font(text_px), anchor="lm")
    return whole


def _with_neighbours(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return cv2.dilate(pixels.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _differs(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return where a pixel has another label than one of its four neighbours."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        step = np.diff(labels.astype(np.int32), axis=axis) != 0
        ahead, behind = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        ahead[axis], behind[axis] = (0, 1), (1, 0)
        edge |= np.pad(step, ahead) | np.pad(step, behind)
    return edge
