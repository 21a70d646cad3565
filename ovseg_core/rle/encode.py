"""Segment map on a canvas -> COCO RLE, area and box of every segment at the image's size.

The canvas is enlarged along one axis only: with its columns repeated, one scan finds where the
segment changes on the way down the columns, and every change is then moved to its row at full
size. All segments come out of that one scan (to encode them one by one costs a scan of the whole
image each). pycocotools packs the counts; the tests compare counts, area and box with its
`encode`, `area` and `toBbox`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.resize.nearest import Scalar, SizeHW, nearest_counts
from ovseg_core.rle.check import check_counts

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


@dataclass(frozen=True)
class _Runs:
    """All runs of equal values of a map, column-major, sorted by value; `stop` is exclusive."""

    value: NDArray[np.integer]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]


def encode_rle(
    segments: NDArray[np.integer], size_hw: SizeHW, min_area_px: int = 1
) -> dict[int, Rle]:
    """Return the RLE of each segment of a map, by segment number, ascending.

    Args:
        segments: (Hc, Wc) segment numbers on the canvas; 0 is no segment.
        size_hw: the image's size; the map goes there by nearest, `floor(i * in / out)`.
        min_area_px: segments of fewer image pixels are left out.
    """
    runs = _find_runs(segments, size_hw)
    values, first = np.unique(runs.value, return_index=True)
    areas = np.add.reduceat(runs.stop - runs.start, first)
    bounds = zip(first, [*first[1:], len(runs.value)], strict=True)
    return {
        int(value): _encode_runs(runs.start[begin:end], runs.stop[begin:end], size_hw)
        for value, area, (begin, end) in zip(values, areas, bounds, strict=True)
        if value and area >= min_area_px
    }


def decode_rle(counts: str, size_hw: SizeHW) -> NDArray[np.uint8]:
    """Return the mask (H, W) of 0 and 1 that compressed run lengths encode.

    Raises:
        ValueError: they are not those of a mask of this size.
    """
    check_counts(counts, size_hw)
    return coco_mask.decode({"counts": counts.encode("ascii"), "size": list(size_hw)})


def transpose(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return a C-contiguous copy of `values.T`; large maps go several times faster in blocks."""
    height, width = values.shape
    out = np.empty((width, height), values.dtype)
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            block = values[top : top + _BLOCK, left : left + _BLOCK]
            out[left : left + _BLOCK, top : top + _BLOCK] = block.T
    return out


def _find_runs(segments: NDArray[np.integer], size_hw: SizeHW) -> _Runs:
    height, width = size_hw
    row_counts = nearest_counts(segments.shape[0], height)
    rows = np.flatnonzero(row_counts)
    by_column = transpose(segments if len(rows) == len(row_counts) else segments[rows])
    flat = np.repeat(by_column, nearest_counts(segments.shape[1], width), axis=0).ravel()
    change = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    begins = np.concatenate([[0], change])
    column, row = np.divmod(begins, len(rows))
    row_start = np.cumsum(row_counts[rows]) - row_counts[rows]
    start = column * height + row_start[row]
    stop = np.append(start[1:], height * width)
    value = flat[begins]
    order = np.argsort(value, kind="stable")
    return _Runs(value[order], start[order], stop[order])


def _encode_runs(start: NDArray[np.int64], stop: NDArray[np.int64], size_hw: SizeHW) -> Rle:
    height, width = size_hw
    edges = np.column_stack([start, stop]).ravel()
    end = [height * width] if edges[-1] < height * width else []
    counts = np.diff(edges, prepend=0, append=end)
    plain: Any = {"counts": counts, "size": [height, width]}
    packed = coco_mask.frPyObjects(plain, height, width)
    first_column, first_row = np.divmod(start, height)
    last_column, last_row = np.divmod(stop - 1, height)
    x, right = int(first_column.min()), int(last_column.max())
    if (
        first_column != last_column
    ).any():  # a run over a column's end covers the bottom row and the top row
        y, bottom = 0, height - 1
    else:
        y, bottom = int(first_row.min()), int(last_row.max())
    return Rle(
        counts=packed["counts"].decode("ascii"),
        area_px=int((stop - start).sum()),
        bbox_xywh=(float(x), float(y), float(right - x + 1), float(bottom - y + 1)),
    )
