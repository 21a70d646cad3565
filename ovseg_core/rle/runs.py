"""COCO's compressed run lengths -> where the runs of many masks begin and end.

All masks are read at once: one by one, small masks cost more in calls than in work.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int32 | np.int64]
"""Whole numbers, of 64 bits only where 32 do not hold them."""

FIRST = 48
"""The character of an empty group; each holds 5 bits of a number, lowest first."""
BITS, MORE, _SIGN = 5, 32, 16
_MOST_GROUPS = 11
"""Beside the last one."""


class Edges(NamedTuple):
    """Where the runs of masks begin and end by turns, column-major, `stop` exclusive."""

    places: Whole
    """Of all masks, one after another."""
    bounds: list[int]
    """Mask k has `places[bounds[k] : bounds[k + 1]]`, an even number of them."""

    @property
    def num_runs(self) -> list[int]:
        """Runs of each mask."""
        return [(end - begin) // 2 for begin, end in pairwise(self.bounds)]


def run_edges(counts: Sequence[str], num_pixels: int, *, stacked: bool = False) -> Edges:
    """Return where runs begin and end.

    Args:
        counts: compressed run lengths of each mask.
        num_pixels: of each mask, or more.
        stacked: count on from mask to mask: the first pixel of mask k is `k * num_pixels`.
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
    _begin_anew(steps, first)
    places = np.empty(2 * len(pairs), kind)
    stops = np.add.accumulate(steps, 0, kind, places[1::2])
    np.subtract(stops, pairs[:, 1], out=places[0::2])
    return Edges(places, bounds)


def run_lengths(counts: str) -> NDArray[np.int64]:
    """Return the lengths of a mask's runs, gap first, as they are told; nothing else is checked.

    Raises:
        ValueError: a text that no compressed run lengths are written with, or a cut one.
    """
    groups = np.frombuffer(counts.encode("ascii"), np.uint8)
    if not len(groups) or groups.min() < FIRST or groups.max() >= FIRST + 2 * MORE:
        raise ValueError("expected compressed run lengths as COCO writes them")
    if (groups[-1] - FIRST) & MORE:
        raise ValueError("compressed run lengths that end in the middle of a number")
    lengths, _ = _numbers([counts], np.int64)
    for turn in (lengths[1::2], lengths[2::2]):
        np.cumsum(turn, out=turn)
    return lengths.astype(np.int64, copy=False)


def running_sums(values: NDArray) -> NDArray:
    """Return `np.cumsum(values)` of the same type, four times as fast.

    In neighbouring places each addition waits until the one before it is written, so every other
    place is used.
    """
    spread = np.empty((len(values), 2), values.dtype)[:, 0]
    return np.add.accumulate(values, 0, values.dtype, spread).copy()


def _numbers(counts: Sequence[str], kind: type) -> tuple[Whole, list[int]]:
    """Return the numbers that all texts hold, and where those of each begin and end."""
    groups = np.frombuffer("".join(counts).encode("ascii"), np.uint8) - np.uint8(FIRST)
    last = np.flatnonzero(groups < MORE)
    signed = (groups ^ _SIGN).astype(np.int8) - np.int8(_SIGN)  # where there is no more to come
    numbers = signed.take(last).astype(kind)
    size = last.copy()
    size[1:] -= last[:-1]
    size[:1] += 1
    longer, at = np.flatnonzero(size > 1), 1
    while len(longer):
        if at > _MOST_GROUPS:
            raise ValueError("compressed run lengths with a number of more than 60 bits")
        group = groups.take(last.take(longer) - at) & (MORE - 1)
        numbers[longer] = (numbers.take(longer) << BITS) | group
        at += 1
        longer = longer[size.take(longer) > at]
    ends = np.cumsum([0, *map(len, counts)])
    return numbers, np.searchsorted(last, ends).tolist()


def _undo_differences(pairs: Whole, first: NDArray[np.int64]) -> None:
    """Make lengths (background, foreground) of numbers; masks begin at the `first` pairs.

    From the fourth number of a mask on, each is the difference from the last but one.
    """
    second = first[np.diff(first, append=len(pairs)) > 1] + 1
    pairs[second, 0] -= pairs[second - 1, 0]
    _begin_anew(pairs, first)
    np.add.accumulate(pairs, 0, pairs.dtype, pairs)


def _begin_anew(steps: Whole, first: NDArray[np.int64]) -> None:
    """Change steps so that running sums are 0 again before each `first`."""
    sums = np.add.reduceat(steps, first, 0, steps.dtype)
    steps[first[1:]] -= sums[:-1]
