"""RLE of masks -> RLE of their connected components, without decoding.

Work grows with the number of runs, not with the size of the image. Two runs touch where they lie
in neighbouring columns and overlap by a pixel or a corner (8-neighbourhood). The tests compare the
result with decoding, `decision.segments.cut_segments` and `rle.encode.encode_rle`.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ovseg_core.resize.nearest import SizeHW
from ovseg_core.rle.encode import Rle
from ovseg_core.rle.runs import FIRST_CHARACTER, GROUP_BITS, MORE_GROUPS, run_edges

_Ints = NDArray[np.int64]


def split_components(counts: Sequence[str], size_hw: SizeHW) -> list[list[Rle]]:
    """Return the connected components of each mask, by their first pixel in reading order.

    Args:
        counts: compressed run lengths of masks of one image.
        size_hw: of the image.
    """
    height, width = size_hw
    start, stop, owner = _pieces(counts, size_hw)
    if not len(start):
        return [[] for _ in counts]
    component = _component_numbers(start, stop, owner, size_hw)
    reading = start % height * width + start // height
    by_component = np.argsort(component, kind="stable")
    begin = _begins(component[by_component])
    first_pixel = np.minimum.reduceat(reading[by_component], begin)
    component_owner = owner[by_component[begin]]
    rank = np.empty(len(begin), np.int64)
    in_order = np.lexsort((first_pixel, component_owner))
    rank[in_order] = np.arange(len(begin))
    order = np.argsort(rank[component], kind="stable")
    rles = _encode(start[order], stop[order], rank[component][order], size_hw)
    bounds = np.searchsorted(component_owner[in_order], np.arange(len(counts) + 1)).tolist()
    return [rles[low:high] for low, high in pairwise(bounds)]


def _pieces(counts: Sequence[str], size_hw: SizeHW) -> tuple[_Ints, _Ints, _Ints]:
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


def _component_numbers(
    start: _Ints, stop: _Ints, owner: _Ints, size_hw: SizeHW
) -> NDArray[np.int32]:
    """Return the component number of each piece; different masks never touch."""
    height, width = size_hw
    apart = owner * (width + 2) * height
    first, last = start + apart, stop + apart
    next_column = (first // height + 1) * height
    low = np.maximum(first + height - 1, next_column)
    high = np.minimum(last + height + 1, next_column + height)
    begin = np.searchsorted(last, low, side="right")
    num = np.maximum(np.searchsorted(first, high, side="left") - begin, 0)
    ours = np.repeat(np.arange(len(start)), num)
    theirs = np.arange(len(ours)) + np.repeat(begin - (np.cumsum(num) - num), num)
    touching = coo_array((np.ones(len(ours), np.int8), (ours, theirs)), shape=(len(start),) * 2)
    return connected_components(touching, directed=False)[1]


def _begins(sorted_values: NDArray[np.integer]) -> _Ints:
    return np.concatenate([[0], np.flatnonzero(np.diff(sorted_values)) + 1])


def _encode(start: _Ints, stop: _Ints, component: _Ints, size_hw: SizeHW) -> list[Rle]:
    """Return the RLE of pieces that are sorted by component, then by place."""
    height, width = size_hw
    begin = _begins(component)
    left, right = (start // height)[begin], (start // height)[np.append(begin[1:], len(start)) - 1]
    top = np.minimum.reduceat(start % height, begin)
    bottom = np.maximum.reduceat((stop - 1) % height, begin)
    area = np.add.reduceat(stop - start, begin)
    texts = _texts(start, stop, component, height * width)
    boxes = np.column_stack([left, top, right - left + 1, bottom - top + 1]).astype(float).tolist()
    return [
        Rle(counts=text, area_px=pixels, bbox_xywh=(x, y, w, h))
        for text, pixels, (x, y, w, h) in zip(texts, area.tolist(), boxes, strict=True)
    ]


def _texts(start: _Ints, stop: _Ints, component: _Ints, num_pixels: int) -> list[str]:
    """Return compressed run lengths as pycocotools writes them, for all components at once."""
    goes_on = (start[1:] == stop[:-1]) & (component[1:] == component[:-1])
    start, component = start[np.append(True, ~goes_on)], component[np.append(True, ~goes_on)]
    stop = stop[np.append(~goes_on, True)]
    begin = _begins(component)
    num_runs = np.diff(np.append(begin, len(start)))
    previous = np.append(0, stop[:-1])
    previous[begin] = 0
    # Gap and length in turn, and after the last run the rest of the image, if there is any.
    size = 2 * num_runs + 1
    offset = np.cumsum(size) - size
    place = 2 * np.arange(len(start)) + np.repeat(np.arange(len(begin)), num_runs)
    lengths = np.zeros(int(size.sum()), np.int64)
    lengths[place], lengths[place + 1] = start - previous, stop - start
    rest = offset + size - 1
    lengths[rest] = num_pixels - stop[begin + num_runs - 1]
    within = np.arange(len(lengths)) - np.repeat(offset, size)
    numbers = lengths.copy()
    late = np.flatnonzero(within > 2)
    numbers[late] -= lengths[late - 2]
    kept = np.ones(len(lengths), bool)
    kept[rest[lengths[rest] == 0]] = False
    of_component = np.repeat(np.arange(len(begin)), size)[kept]
    return _packed(numbers[kept], of_component, len(begin))


def _packed(numbers: _Ints, component: _Ints, num_components: int) -> list[str]:
    num_groups = np.ones(len(numbers), np.int64)
    limit = 1 << (GROUP_BITS - 1)
    while (longer := (numbers >= limit) | (numbers < -limit)).any():
        num_groups += longer
        limit <<= GROUP_BITS
    ends = np.cumsum(num_groups)
    begins = ends - num_groups
    text = np.zeros(int(ends[-1]), np.uint8)
    for group in range(int(num_groups.max())):
        has = np.flatnonzero(num_groups > group)
        bits = (numbers[has] >> (GROUP_BITS * group)) & (MORE_GROUPS - 1)
        more = np.where(num_groups[has] > group + 1, MORE_GROUPS, 0)
        text[begins[has] + group] = bits + more + FIRST_CHARACTER
    whole = text.tobytes().decode("ascii")
    last = np.searchsorted(component, np.arange(num_components), side="right")
    cuts = [0, *ends[last - 1].tolist()]
    return [whole[low:high] for low, high in pairwise(cuts)]
