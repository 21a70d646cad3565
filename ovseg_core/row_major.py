"""COCO's column-major run lengths as row-major runs, without painting a single pixel.

A mask changes from one pixel of a row to the next where its column and the one before it differ.
In column-major order the column before is the same sequence a height later, so those places are
the symmetric difference of the runs and the shifted runs: work grows with the outline, not the
image.
"""

import numpy as np
from numpy.typing import NDArray

from ovseg_core.nearest import SizeHW

Box = tuple[int, int, int, int]
"""Top, left, height, width."""


def changes(counts: str, size_hw: SizeHW, box: Box | None = None) -> NDArray[np.int64]:
    """Return where a mask begins and ends in row-major order, background before the first place.

    Args:
        counts: compressed run lengths.
        size_hw: of the image.
        box: read row by row inside it; it must hold the whole mask. None: the image.

    Returns:
        Rising, alternately the first pixel inside and the first outside; the last may be the end.
    """
    height = size_hw[0]
    top, left, _, width = box or (0, 0, *size_hw)
    runs = plain(counts)
    ends = np.cumsum(runs)
    ends = ends if len(ends) % 2 == 0 else ends[:-1]
    both = np.sort(np.concatenate([ends, ends + height]), kind="stable")
    begin, length = both[0::2], both[1::2] - both[0::2]
    place = np.repeat(begin - (np.cumsum(length) - length), length) + np.arange(length.sum())
    column = place // height
    found = np.sort((place - column * height - top) * width + column - left)
    # The end of a row and the beginning of the next are one place, and no change if both are there.
    twice = found[1:] == found[:-1]
    return found[~(np.append(twice, False) | np.append(False, twice))]


def lengths(places: NDArray[np.int64], num_pixels: int) -> NDArray[np.int64]:
    """Return run lengths, background first (0 where the first pixel is inside), from `changes`."""
    whole = np.concatenate([[0], places, [num_pixels]])
    runs = np.diff(whole)
    return runs if runs[-1] else runs[:-1]


def plain(counts: str) -> NDArray[np.int64]:
    """Return the run lengths behind compressed ones."""
    data = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(data < 32)  # without the bit that says "more"
    first = np.concatenate([[0], last[:-1] + 1])
    num_groups = last - first + 1
    shift = 5 * (np.arange(len(data)) - np.repeat(first, num_groups))
    values = np.add.reduceat((data & 31) << shift, first)
    values -= np.where(data[last] & 16, 1 << 5 * num_groups, 0)
    # From the fourth on each is the difference to the last but one.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
