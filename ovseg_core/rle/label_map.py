"""RLE of the masks of one image -> label map, without decoding single masks.

To decode masks one by one and copy each into a map costs several passes over the image for each of
them; here the runs of all masks are read from the texts and merged in one pass.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.encode import transpose
from ovseg_core.rle.runs import Edges, run_edges

Unsigned = TypeVar("Unsigned", np.uint8, np.uint16, np.uint32)


def paint_label_map(
    counts: Sequence[str],
    values: Sequence[int],
    size_hw: SizeHW,
    kind: type[Unsigned] = np.uint16,
) -> NDArray[Unsigned]:
    """Return the label map of one image.

    Args:
        counts: compressed run lengths of its masks.
        values: label of each mask, from 1; where two masks overlap, the later one stays.
        size_hw: of the image.
        kind: dtype of the map.

    Returns:
        (H, W); 0 where there is no mask.
    """
    height, width = size_hw
    edges = run_edges(counts, height * width)
    starts, stops = edges.places[0::2], edges.places[1::2]
    order = np.argsort(starts, kind="stable")
    bounds = np.zeros(2 * len(order) + 2, np.int64)
    bounds[1:-1:2], bounds[2:-1:2], bounds[-1] = starts[order], stops[order], height * width
    lengths = np.diff(bounds)
    if (lengths < 0).any():  # masks overlap
        return _paint_in_turn(edges, values, size_hw, kind)
    painted = np.zeros(len(lengths), kind)
    painted[1::2] = np.repeat(np.asarray(values, kind), edges.num_runs)[order]
    return transpose(np.repeat(painted, lengths).reshape(width, height))


def _paint_in_turn(
    edges: Edges, values: Sequence[int], size_hw: SizeHW, kind: type[Unsigned]
) -> NDArray[Unsigned]:
    """Paint mask after mask: the work grows with the pixels of the masks, not of the image."""
    height, width = size_hw
    painted = np.zeros(height * width, kind)
    starts, stops = edges.places[0::2].astype(np.int64), edges.places[1::2].astype(np.int64)
    all_lengths = stops - starts
    if (starts < 0).any() or (all_lengths < 0).any() or (stops > height * width).any():
        raise ValueError(f"expected run lengths of masks of {width} x {height} pixels, got others")
    for value, (begin, end) in zip(values, pairwise(edges.bounds), strict=True):
        runs = slice(begin // 2, end // 2)
        first, lengths = starts[runs], all_lengths[runs]
        before = np.cumsum(lengths) - lengths
        painted[np.arange(lengths.sum()) + np.repeat(first - before, lengths)] = value
    return transpose(painted.reshape(width, height))
