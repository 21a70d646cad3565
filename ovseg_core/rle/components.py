"""RLE of masks -> RLE of their connected components, without decoding.

Work grows with the number of runs, not with the size of the image. Two runs touch where they lie
in neighbouring columns and overlap by a pixel or a corner (8-neighbourhood). The tests compare the
result with decoding and OpenCV.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.encode import Rle, encode_pieces
from ovseg_core.rle.map_runs import Ints
from ovseg_core.rle.runs import run_edges


def split_components(counts: Sequence[str], size_hw: SizeHW) -> list[list[Rle]]:
    """Return the connected components of each mask, by their first pixel in reading order.

    Args:
        counts: compressed run lengths of masks of one image.
        size_hw: of the image.
    """
    start, stop, owner = _pieces(counts, size_hw)
    if not len(start):
        return [[] for _ in counts]
    component, component_owner = component_numbers(start, stop, owner, size_hw)
    order = np.argsort(component, kind="stable")
    rles = encode_pieces(start[order], stop[order], component[order], size_hw)
    bounds = np.searchsorted(component_owner, np.arange(len(counts) + 1)).tolist()
    return [rles[low:high] for low, high in pairwise(bounds)]


def _pieces(counts: Sequence[str], size_hw: SizeHW) -> tuple[Ints, Ints, Ints]:
    """Return start, stop and mask number of all runs, cut where a column ends."""
    height, width = size_hw
    edges = run_edges(counts, height * width)
    start, stop = (edges.places[turn::2].astype(np.int64) for turn in (0, 1))
    owner = np.repeat(np.arange(len(counts)), edges.num_runs)
    column = start // height
    num_columns = np.where(stop > start, (stop - 1) // height - column + 1, 0)
    start, stop, owner = (np.repeat(values, num_columns) for values in (start, stop, owner))
    before = np.cumsum(num_columns) - num_columns
    column = np.repeat(column - before, num_columns) + np.arange(len(start))
    return np.maximum(start, column * height), np.minimum(stop, (column + 1) * height), owner


def component_numbers(start: Ints, stop: Ints, owner: Ints, size_hw: SizeHW) -> tuple[Ints, Ints]:
    """Return the component number of each piece, and the owner of each component.

    Components are numbered from 0, by owner, then by their first pixel in reading order. Pieces of
    different owners never touch.

    Args:
        start: first pixel of each piece, column-major; sorted by owner, then by place.
        stop: the pixel after its last one, in the same column.
        owner: number of the mask or label that it belongs to.
        size_hw: of the map.
    """
    height, width = size_hw
    component = _touching(start, stop, owner, size_hw)
    num_components = int(component.max(initial=-1)) + 1
    first_pixel = np.full(num_components, height * width)
    np.minimum.at(first_pixel, component, start % height * width + start // height)
    component_owner = np.empty(num_components, np.int64)
    component_owner[component] = owner
    in_order = np.lexsort((first_pixel, component_owner))
    rank = np.empty(num_components, np.int64)
    rank[in_order] = np.arange(num_components)
    return rank[component], component_owner[in_order]


def _touching(start: Ints, stop: Ints, owner: Ints, size_hw: SizeHW) -> NDArray[np.int32]:
    """Return a number of each piece that it shares with those that it touches."""
    height, width = size_hw
    apart = owner * (width + 2) * height
    first, last = start + apart, stop + apart
    next_column = (first // height + 1) * height
    low = np.maximum(first + height - 1, next_column)
    high = np.minimum(last + height + 1, next_column + height)
    begin = np.searchsorted(last, low, side="right")
    num = np.maximum(np.searchsorted(first, high, side="left") - begin, 0)
    bounds = np.append(0, np.cumsum(num))
    theirs = np.arange(bounds[-1]) + np.repeat(begin - bounds[:-1], num)
    edges = np.ones(len(theirs), np.int8), theirs, bounds
    touching = csr_array(edges, shape=(len(start), len(start)))
    return connected_components(touching, directed=False)[1]
