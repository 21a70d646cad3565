"""Segment map on a canvas -> COCO RLE, area and box of every segment at the image's size.

One scan of the canvas finds its runs (`rle.map_runs`); they are moved to the image's size and
written for all segments at once (to encode them one by one costs a scan of the whole image each).
The tests compare counts, area and box with pycocotools' `encode`, `area` and `toBbox`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.images.resize.nearest import Scalar, SizeHW
from ovseg_core.rle.check import check_counts
from ovseg_core.rle.map_runs import Ints, MapRuns, map_runs, runs_at_size
from ovseg_core.rle.runs import FIRST_CHARACTER, GROUP_BITS, MORE_GROUPS

_LONG_TEXT = 256
"""Masks of more run lengths on average are written by pycocotools, one by one; shorter ones, of
which there may be thousands, all at once."""
_BLOCK = 256
"""Side of the blocks of a transpose: the lines that are read and written stay in the cache."""


@dataclass(frozen=True)
class Rle:
    """One mask at the image's size."""

    counts: str
    """COCO compressed run lengths (column-major), ASCII."""
    area_px: int
    bbox_xywh: tuple[float, float, float, float]
    """Tight box, whole pixels."""


def encode_rle(
    segments: NDArray[np.integer], size_hw: SizeHW, min_area_px: int = 1
) -> dict[int, Rle]:
    """Return the RLE of each segment of a map, by segment number, ascending.

    Args:
        segments: (Hc, Wc) segment numbers on the canvas; 0 is no segment.
        size_hw: the image's size; the map goes there by nearest, `floor(i * in / out)`.
        min_area_px: segments of fewer image pixels are left out.
    """
    canvas_hw = (segments.shape[0], segments.shape[1])
    return encode_runs(runs_at_size(map_runs(segments), canvas_hw, size_hw), size_hw, min_area_px)


def encode_runs(runs: MapRuns, size_hw: SizeHW, min_area_px: int = 1) -> dict[int, Rle]:
    """Return the RLE of each segment, by segment number, ascending.

    Args:
        runs: of the segment numbers at the image's size, by place; 0 is no segment.
        size_hw: the image's size.
        min_area_px: segments of fewer pixels are left out.
    """
    runs = runs.select(np.flatnonzero(runs.value))
    runs = runs.select(np.argsort(runs.value, kind="stable"))
    if min_area_px > 1 and len(runs.value):
        first = first_of_each(runs.value)
        areas = np.add.reduceat(runs.stop - runs.start, first)
        num_runs = np.diff(first, append=len(runs.value))
        runs = runs.select(np.repeat(areas >= min_area_px, num_runs))
    if not len(runs.value):
        return {}
    numbers = runs.value[first_of_each(runs.value)].tolist()
    rles = encode_pieces(runs.start, runs.stop, runs.value, size_hw)
    return dict(zip(numbers, rles, strict=True))


def decode_rle(counts: str, size_hw: SizeHW) -> NDArray[np.uint8]:
    """Return the mask (H, W) of 0 and 1 that compressed run lengths encode.

    Raises:
        ValueError: they are not those of a mask of this size.
    """
    check_counts(counts, size_hw)
    return coco_mask.decode(coco_rle(counts, size_hw))


def coco_rle(counts: str, size_hw: SizeHW) -> Any:
    """Return a mask (H, W) of compressed run lengths as pycocotools takes it."""
    return {"counts": counts.encode("ascii"), "size": list(size_hw)}


def transpose(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return a C-contiguous copy of `values.T`; large maps go several times faster in blocks."""
    height, width = values.shape
    out = np.empty((width, height), values.dtype)
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            block = values[top : top + _BLOCK, left : left + _BLOCK]
            out[left : left + _BLOCK, top : top + _BLOCK] = block.T
    return out


def first_of_each(sorted_values: NDArray[np.integer]) -> Ints:
    """Return the place of the first of each value, in values of which equal ones are neighbours."""
    return np.concatenate([[0], np.flatnonzero(np.diff(sorted_values)) + 1])


def encode_pieces(
    start: Ints, stop: Ints, owner: NDArray[np.integer], size_hw: SizeHW
) -> list[Rle]:
    """Return the RLE of each owner of pieces, in their order.

    Args:
        start: first pixel of each piece, column-major.
        stop: the pixel after its last one, in the same column.
        owner: number of the mask that it belongs to; pieces are sorted by it, then by place.
        size_hw: of the image.
    """
    height = size_hw[0]
    begin = first_of_each(owner)
    left, right = (start // height)[begin], (start // height)[np.append(begin[1:], len(start)) - 1]
    top = np.minimum.reduceat(start % height, begin)
    bottom = np.maximum.reduceat((stop - 1) % height, begin)
    area = np.add.reduceat(stop - start, begin)
    texts = _texts(start, stop, owner, size_hw)
    boxes = np.column_stack([left, top, right - left + 1, bottom - top + 1]).astype(float).tolist()
    return [
        Rle(counts=text, area_px=pixels, bbox_xywh=(x, y, w, h))
        for text, pixels, (x, y, w, h) in zip(texts, area.tolist(), boxes, strict=True)
    ]


def _texts(start: Ints, stop: Ints, owner: NDArray[np.integer], size_hw: SizeHW) -> list[str]:
    """Return the compressed run lengths of each owner as pycocotools writes them."""
    goes_on = (start[1:] == stop[:-1]) & (owner[1:] == owner[:-1])
    start, owner = start[np.append(True, ~goes_on)], owner[np.append(True, ~goes_on)]
    stop = stop[np.append(~goes_on, True)]
    begin = first_of_each(owner)
    end = np.append(begin[1:], len(start))
    previous = np.append(0, stop[:-1])
    previous[begin] = 0
    # Gap and length in turn, and after the last run the rest of the image, if there is any.
    rest = size_hw[0] * size_hw[1] - stop[end - 1]
    has_rest = rest > 0
    size = 2 * (end - begin) + has_rest
    stops = np.cumsum(size)
    offset = stops - size
    place = 2 * np.arange(len(start)) + np.repeat(offset - 2 * begin, end - begin)
    lengths = np.empty(int(stops[-1]), np.int64)
    lengths[place], lengths[place + 1] = start - previous, stop - start
    lengths[stops[has_rest] - 1] = rest[has_rest]
    if len(lengths) > _LONG_TEXT * len(begin):
        return [_text(lengths[low:high], size_hw) for low, high in pairwise([0, *stops.tolist()])]
    # From the fourth on, each is written as the difference from the one two before it.
    numbers = lengths.copy()
    numbers[2:] -= lengths[:-2]
    for turn in range(3):
        first = offset[size > turn] + turn
        numbers[first] = lengths[first]
    text, ends = _packed(numbers)
    return [text[low:high] for low, high in pairwise([0, *ends[stops - 1].tolist()])]


def _text(lengths: Ints, size_hw: SizeHW) -> str:
    """Return the compressed run lengths of one mask, by pycocotools."""
    plain: Any = {"counts": lengths, "size": list(size_hw)}
    return coco_mask.frPyObjects(plain, *size_hw)["counts"].decode("ascii")


def _packed(numbers: Ints) -> tuple[str, Ints]:
    """Return numbers as characters, and where each ends; a character holds 5 bits, lowest first."""
    half = 1 << (GROUP_BITS - 1)

    def go_on(values: Ints) -> NDArray[np.bool_]:
        return (values < -half) | (values >= half)

    num_groups = np.ones(len(numbers), np.int64)
    longer = np.flatnonzero(go_on(numbers))
    which, values = longer, numbers[longer]
    while len(which):
        num_groups[which] += 1
        values = values >> GROUP_BITS
        more = go_on(values)
        which, values = which[more], values[more]
    ends = np.cumsum(num_groups)
    text = np.empty(int(ends[-1]), np.uint8)
    place = ends - num_groups
    text[place] = (numbers & (MORE_GROUPS - 1)) + FIRST_CHARACTER
    # Most numbers have one group: only the others are gone through again.
    place, values = place[longer], numbers[longer]
    while len(place):
        text[place] += MORE_GROUPS
        place, values = place + 1, values >> GROUP_BITS
        text[place] = (values & (MORE_GROUPS - 1)) + FIRST_CHARACTER
        more = go_on(values)
        place, values = place[more], values[more]
    return text.tobytes().decode("ascii"), ends
