"""RLE of the masks of one image -> label map, without decoding single masks.

To decode masks one by one and copy each into a map costs several passes over the image for each of
them; here the runs of all masks are read from the texts and merged in one pass.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ovseg_core.resize.nearest import SizeHW
from ovseg_core.rle.encode import decode_rle, transpose
from ovseg_core.rle.runs import run_edges

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
    if (lengths < 0).any():
        return _paint_in_turn(counts, values, size_hw, kind)
    painted = np.zeros(len(lengths), kind)
    painted[1::2] = np.repeat(np.asarray(values, kind), edges.num_runs)[order]
    return transpose(np.repeat(painted, lengths).reshape(width, height))


def _paint_in_turn(
    counts: Sequence[str], values: Sequence[int], size_hw: SizeHW, kind: type[Unsigned]
) -> NDArray[Unsigned]:
    painted = np.zeros(size_hw, kind)
    for text, value in zip(counts, values, strict=True):
        painted[decode_rle(text, size_hw) > 0] = value
    return painted
