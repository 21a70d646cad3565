"""COCO's compressed run lengths -> where the runs of many masks begin and end.

The texts were checked before (`rle.check`). All masks are read at once, because one by one small
masks cost more in calls than in work.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32 | np.int64]
"""Integers, of 64 bits only where 32 bits do not hold them."""

FIRST_CHARACTER = 48
"""The character of an empty group; each character holds a group of bits, lowest group first."""
GROUP_BITS = 5
MORE_GROUPS = 32
"""Set in a character where another group of the same number follows."""
_SIGN = 16


class Edges(NamedTuple):
    """Where the runs of masks begin and end in turn, column-major; ends are exclusive."""

    places: IntArray
    """Of all masks, one after another."""
    bounds: list[int]
    """Mask k has `places[bounds[k] : bounds[k + 1]]`, an even number of them."""

    @property
    def num_runs(self) -> list[int]:
        """Runs of each mask."""
        return [(end - begin) // 2 for begin, end in pairwise(self.bounds)]


def run_edges(counts: Sequence[str], num_pixels: int, *, stacked: bool = False) -> Edges:
    """Return where the runs of masks begin and end.

    Args:
        counts: compressed run lengths of each mask.
        num_pixels: of each mask, or more.
        stacked: count pixels on from mask to mask: mask k begins at pixel `k * num_pixels`.
    """
    kind = np.int32 if num_pixels * max(1, len(counts)) < 1 << 31 else np.int64
    numbers, cuts = _numbers(counts, kind)
    sizes = [(end - begin) // 2 * 2 for begin, end in pairwise(cuts)]
    bounds = [0, *accumulate(sizes)]
    paired = [numbers[begin : begin + size] for begin, size in zip(cuts, sizes, strict=False)]
    pairs = np.concatenate([numbers[:0], *paired]).reshape(-1, 2)
    owners = np.flatnonzero(sizes)
    first = np.array(bounds)[owners] // 2
    _undo_differences(pairs, first)
    steps = pairs[:, 0] + pairs[:, 1]
    if stacked:
        steps[first] += (owners * num_pixels).astype(kind)
    _restart_sums(steps, first)
    places = np.empty(2 * len(pairs), kind)
    stops = np.add.accumulate(steps, 0, kind, places[1::2])
    np.subtract(stops, pairs[:, 1], out=places[0::2])
    return Edges(places, bounds)


def run_lengths(counts: str) -> NDArray[np.int64]:
    """Return the lengths of a mask's runs as they are written, background first.

    Args:
        counts: compressed run lengths that were checked (`rle.check`).
    """
    lengths, _ = _numbers([counts], np.int64)
    for turn in (lengths[1::2], lengths[2::2]):
        np.cumsum(turn, out=turn)
    return lengths.astype(np.int64, copy=False)


def running_sums(values: NDArray) -> NDArray:
    """Return `np.cumsum(values)` of the same type, four times as fast.

    In neighbouring places each addition waits until the one before it is written; in every other
    place it does not.
    """
    spread = np.empty((len(values), 2), values.dtype)[:, 0]
    return np.add.accumulate(values, 0, values.dtype, spread).copy()


def _numbers(counts: Sequence[str], kind: type) -> tuple[IntArray, list[int]]:
    data = np.frombuffer("".join(counts).encode("ascii"), np.uint8)
    numbers, bounds = numbers_of(data, np.cumsum([0, *map(len, counts)]), kind)
    return numbers, bounds.tolist()


def numbers_of(
    data: NDArray[np.uint8], places: NDArray[np.integer], kind: type
) -> tuple[IntArray, NDArray[np.int64]]:
    """Return the numbers in many texts, and where those of each text begin and end.

    Args:
        data: the characters of all texts, one text after another; each ends with a whole number.
        places: where each text begins and ends in it, one more than there are texts.
        kind: of the numbers; it must have the bits that they need.
    """
    groups = data - np.uint8(FIRST_CHARACTER)
    goes_on = groups >= MORE_GROUPS
    low = groups & np.uint8(MORE_GROUPS - 1)
    signed = (low ^ np.uint8(_SIGN)).view(np.int8) - np.int8(_SIGN)  # of groups that end a number
    values = signed.astype(np.int16)
    # Most numbers have one group or two: these come without looking for where they are.
    values[1:] *= np.int16(1) + np.int16(MORE_GROUPS - 1) * goes_on[:-1].view(np.int8)
    values[1:] += low[:-1] * goes_on[:-1]
    last = np.flatnonzero(groups < MORE_GROUPS)
    numbers = values.take(last).astype(kind)
    inside = np.flatnonzero(goes_on[:-1] & goes_on[1:])  # of numbers of three groups or more
    longer, at = np.searchsorted(last, inside), 1
    longer = longer[np.diff(longer, prepend=-1) > 0]
    size = last.take(longer) - np.where(longer > 0, last.take(longer - 1), -1)
    numbers[longer] = signed.take(last.take(longer))
    while len(longer):
        group = low.take(last.take(longer) - at)
        numbers[longer] = (numbers.take(longer) << GROUP_BITS) | group
        at += 1
        longer, size = longer[size > at], size[size > at]
    return numbers, np.searchsorted(last, places)


def _undo_differences(pairs: IntArray, first: NDArray[np.int64]) -> None:
    """Turn numbers into lengths (background, foreground), in place; masks begin at `first`.

    From the fourth number of a mask on, each is the difference from the number two before it.
    """
    second = first[np.diff(first, append=len(pairs)) > 1] + 1
    pairs[second, 0] -= pairs[second - 1, 0]
    _restart_sums(pairs, first)
    np.add.accumulate(pairs, 0, pairs.dtype, pairs)


def _restart_sums(steps: IntArray, first: NDArray[np.int64]) -> None:
    """Change steps, in place, so that their running sum is 0 before each `first`."""
    sums = np.add.reduceat(steps, first, 0, steps.dtype)
    steps[first[1:]] -= sums[:-1]
