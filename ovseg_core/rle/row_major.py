"""COCO's column-major run lengths -> row-major run lengths, without painting pixels.

A mask changes from one pixel of a row to the next where its column and the one before it differ.
In column-major order the column before is the same sequence one height later, so those places are
the symmetric difference of the runs and the shifted runs: work grows with the outlines, not with
the image. All masks of an image are processed at once, one after another, with an empty column
between them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.runs import IntArray, run_edges, running_sums

Box = tuple[int, int, int, int]
"""Top, left, height, width."""


class RowMajorRuns(NamedTuple):
    """Row-major run lengths of masks."""

    lengths: IntArray
    """Lengths of background and foreground in turn, all masks one after another; the first is 0
    where the first pixel is inside the mask."""
    bounds: list[int]
    """Mask k has `lengths[bounds[k] : bounds[k + 1]]`, an even number of them."""
    rests: list[int]
    """Pixels of background after the last run, of each mask."""


def row_major_runs(
    counts: Sequence[str], size_hw: SizeHW, boxes: Sequence[Box] | None = None
) -> RowMajorRuns:
    """Return the row-major run lengths of an image's masks.

    Args:
        counts: compressed run lengths of each mask.
        size_hw: of the image.
        boxes: the rectangle of each mask whose rows are read; it must hold the whole mask. None:
            the whole image.
    """
    height, width = size_hw
    if boxes is None:
        boxes = [(0, 0, height, width)] * len(counts)
    places = _differs_from_left(counts, size_hw)
    kind = places.dtype
    top, left, box_height, box_width = np.array(boxes, kind).reshape(-1, 4).T
    # A place between the boxes keeps the end of one and the beginning of the next apart.
    begins = np.cumsum([0, *(box_height * box_width + 1)], dtype=kind)
    planes = np.arange(len(counts) + 1, dtype=kind)
    of_mask = np.diff(np.searchsorted(places, planes * (height * (width + 1))))
    shift = begins[:-1] - top * box_width - left - planes[:-1] * (width + 1)
    column = places // height
    row = places - column * height
    changes = row * np.repeat(box_width, of_mask) + column + np.repeat(shift, of_mask)
    return _between(_without_pairs(np.sort(changes)), begins)


def _differs_from_left(counts: Sequence[str], size_hw: SizeHW) -> IntArray:
    """Return the pixels that differ from their left neighbour, column-major, a column added."""
    height, width = size_hw
    places = run_edges(counts, height * (width + 1), stacked=True).places
    both = np.sort(np.concatenate([places, places + height]), kind="stable")  # merges the two
    begin, end = both[0::2], both[1::2]
    some = np.flatnonzero(begin != end)
    if not len(some):
        return places[:0]
    begin, end = begin.take(some), end.take(some)
    num_before = running_sums(end - begin)
    steps = np.ones(num_before[-1], places.dtype)
    steps[0] = begin[0]
    steps[num_before[:-1]] = begin[1:] - end[:-1] + 1
    return running_sums(steps)


def _without_pairs(places: IntArray) -> IntArray:
    """Return sorted places without those that occur twice.

    The end of a row and the beginning of the next are one place, and no change if both occur.
    """
    other = np.ones(len(places) + 1, bool)
    np.not_equal(places[1:], places[:-1], out=other[1:-1])
    return places[other[1:] & other[:-1]]


def _between(changes: IntArray, begins: IntArray) -> RowMajorRuns:
    """Return the runs between changes; mask k lies from `begins[k]` to before `begins[k + 1]`."""
    bounds = np.searchsorted(changes, begins)
    lengths = changes.copy()
    lengths[1:] -= changes[:-1]
    last = begins[:-1].copy()
    some = np.flatnonzero(bounds[1:] > bounds[:-1])
    lengths[bounds[some]] = changes[bounds[some]] - begins[some]
    last[some] = changes[bounds[some + 1] - 1]
    return RowMajorRuns(lengths, bounds.tolist(), (begins[1:] - 1 - last).tolist())
