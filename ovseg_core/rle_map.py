"""COCO run lengths of one image's masks -> label map, without a mask in between.

Decoding masks one by one and copying each into a map costs several passes over the image for each
of them; here the runs of all masks are read from the texts and put side by side in one pass.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ovseg_core.nearest import SizeHW
from ovseg_core.rle import decode, transpose

Unsigned = TypeVar("Unsigned", np.uint8, np.uint16, np.uint32)

_FIRST = 48
"""The character of an empty group; each holds 5 bits of a number, lowest first."""
_BITS, _MORE, _SIGN = 5, 32, 16


def paint(
    counts: Sequence[str],
    values: Sequence[int],
    size_hw: SizeHW,
    kind: type[Unsigned] = np.uint16,
) -> NDArray[Unsigned]:
    """Return the label map of one image.

    Args:
        counts: compressed run lengths of its masks.
        values: what each mask is painted as, from 1; where two overlap the later stays.
        size_hw: of the image.
        kind: of the map's numbers.

    Returns:
        (H, W); 0 under no mask.
    """
    height, width = size_hw
    edges = run_edges(counts)
    starts = np.concatenate([np.zeros(0, np.int64), *(each[0::2] for each in edges)])
    stops = np.concatenate([np.zeros(0, np.int64), *(each[1::2] for each in edges)])
    order = np.argsort(starts, kind="stable")
    bounds = np.zeros(2 * len(order) + 2, np.int64)
    bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = starts[order], stops[order], height * width
    lengths = np.diff(bounds)
    if (lengths < 0).any():
        return _paint_in_turn(counts, values, size_hw, kind)
    painted = np.zeros(len(lengths), kind)
    painted[1::2] = np.repeat(np.asarray(values, kind), [len(e) // 2 for e in edges])[order]
    return transpose(np.repeat(painted, lengths).reshape(width, height))


def _paint_in_turn(
    counts: Sequence[str], values: Sequence[int], size_hw: SizeHW, kind: type[Unsigned]
) -> NDArray[Unsigned]:
    painted = np.zeros(size_hw, kind)
    for text, value in zip(counts, values, strict=True):
        painted[decode(text, size_hw) > 0] = value
    return painted


def run_edges(counts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return where the runs of each mask begin and end by turns, column-major, `stop` exclusive."""
    return [_edges(numbers) for numbers in _numbers(counts)]


def run_lengths(counts: str) -> NDArray[np.int64]:
    """Return the lengths of a mask's runs, gap first, as they are told; nothing else is checked.

    Raises:
        ValueError: a text that no compressed run lengths are written with, or a cut one.
    """
    groups = np.frombuffer(counts.encode("ascii"), np.uint8)
    if not len(groups) or groups.min() < _FIRST or groups.max() >= _FIRST + 2 * _MORE:
        raise ValueError("expected compressed run lengths as COCO writes them")
    if (groups[-1] - _FIRST) & _MORE:
        raise ValueError("compressed run lengths that end in the middle of a number")
    return _lengths(_numbers([counts])[0])


def _numbers(counts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the numbers that each text holds, all texts read at once."""
    groups = np.frombuffer("".join(counts).encode("ascii"), np.uint8).astype(np.int64) - _FIRST
    last = np.flatnonzero((groups & _MORE) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if not len(last):
        return [np.zeros(0, np.int64) for _ in counts]
    place = np.arange(len(groups)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((groups & (_MORE - 1)) << (_BITS * place), first)
    negative = (groups[last] & _SIGN) > 0
    numbers -= negative * (np.int64(1) << (_BITS * (last - first + 1)))
    ends = np.cumsum([0, *map(len, counts)])
    cuts = np.searchsorted(last, ends).tolist()
    return [numbers[begin:end] for begin, end in pairwise(cuts)]


def _edges(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the runs of one mask begin and end by turns."""
    edges = np.cumsum(_lengths(numbers))
    return edges[: len(edges) // 2 * 2]


def _lengths(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return lengths: from the fourth on, a number is what they grew since the one before last."""
    lengths = numbers.copy()
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths
