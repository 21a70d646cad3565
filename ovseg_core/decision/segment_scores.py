"""The score columns of every region of a decision, as they would be at the image's own size.

Everything is summed on the canvas, each pixel weighted by the number of image pixels it becomes,
and block of rows by block of rows, so that memory does not grow with the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovseg_core.decision.decide import Decision
from ovseg_core.resize.nearest import SizeHW, nearest_counts

Numbers = NDArray[np.float64]

_PERCENTILE = 0.10
_MARGIN_BINS = 1024
"""The percentile is read from a histogram: right to half a bin, 0.0005."""
_HISTOGRAM_CELLS = 1 << 22
"""Of all regions together; many thousands of regions get fewer bins, but never under 16."""
_BLOCK_PIXELS = 1 << 19


@dataclass(frozen=True)
class VisibleRows:
    """The rows and columns of a decision that reach the image; each becomes >= 1 image pixels."""

    decision: Decision
    row_counts: NDArray[np.int64]
    column_counts: NDArray[np.int64]

    def blocks(self) -> Iterator[slice]:
        """Yield rows that are worked on at once."""
        height, width = self.decision.label_map.shape
        step = max(1, _BLOCK_PIXELS // width)
        for start in range(0, height, step):
            yield slice(start, min(start + step, height))


def visible(decision: Decision, size_hw: SizeHW) -> VisibleRows:
    """Drop the canvas rows and columns that a reduction to the image's size skips."""
    rows, columns = (
        nearest_counts(num_in, num_out)
        for num_in, num_out in zip(decision.label_map.shape, size_hw, strict=True)
    )
    if not (rows.all() and columns.all()):
        used = np.ix_(rows > 0, columns > 0)
        maps = ("label_map", "confidence", "margin", "entropy", "saliency")
        decision = replace(decision, **{name: getattr(decision, name)[used] for name in maps})
    return VisibleRows(decision, rows[rows > 0], columns[columns > 0])


def score_columns(
    canvas: VisibleRows, regions: NDArray[np.integer], num_regions: int
) -> dict[str, Numbers]:
    """Return the score columns, each (N + 1,) by region number; entry 0 means nothing.

    Args:
        canvas: what was decided.
        regions: (Hc, Wc) region numbers from 1; 0 is no region.
        num_regions: N.
    """
    sums = _Sums(num_regions + 1)
    for rows in canvas.blocks():
        sums.add(canvas, regions, rows)
        sums.add_rim(canvas, regions, rows)
    return sums.columns()


class _Sums:
    """Running sums by region number."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bins = max(16, min(_MARGIN_BINS, _HISTOGRAM_CELLS // size))
        self._planes = {
            "mean_prob": np.zeros(size),
            "margin_mean": np.zeros(size),
            "entropy_mean": np.zeros(size),
            "objectness_mean": np.zeros(size),
        }
        self._area, self._rim, self._rim_entropy = np.zeros(size), np.zeros(size), np.zeros(size)
        self._histogram = np.zeros(size * self._bins)

    def add(self, canvas: VisibleRows, regions: NDArray[np.integer], rows: slice) -> None:
        """Take a block's pixels."""
        block = regions[rows].ravel()
        pixels = np.flatnonzero(block)
        region = block[pixels].astype(np.intp)
        weight = self._weights(canvas, rows, pixels)
        decision = canvas.decision
        margin = decision.margin[rows].ravel()[pixels]
        planes = {
            "mean_prob": decision.confidence[rows].ravel()[pixels],
            "margin_mean": margin,
            "entropy_mean": decision.entropy[rows].ravel()[pixels],
            "objectness_mean": decision.saliency[rows].ravel()[pixels],
        }
        self._area += np.bincount(region, weight, self._size)
        for name, values in planes.items():
            weighted = values if weight is None else weight * values
            self._planes[name] += np.bincount(region, weighted, self._size)
        cell = region * self._bins + np.rint(margin * (self._bins - 1)).astype(np.intp)
        self._histogram += np.bincount(cell, weight, len(self._histogram))

    @staticmethod
    def _weights(
        canvas: VisibleRows, rows: slice, pixels: NDArray[np.intp]
    ) -> NDArray[np.int64] | None:
        """Return how many image pixels each pixel of a block becomes; None: one each."""
        if canvas.row_counts.max() == 1 and canvas.column_counts.max() == 1:
            return None
        row, column = np.divmod(pixels, len(canvas.column_counts))
        return canvas.row_counts[rows][row] * canvas.column_counts[column]

    def add_rim(self, canvas: VisibleRows, regions: NDArray[np.integer], rows: slice) -> None:
        """Take a block's rim pixels: those with a 4-neighbour outside their region.

        A canvas pixel that becomes h x w image pixels and borders another region on v of its upper
        and lower sides and on u of the others gives `h * w - max(h - v, 0) * max(w - u, 0)` of
        them to the rim.
        """
        block = regions[rows]
        above, below = max(rows.start - 1, 0), min(rows.stop + 1, len(regions))
        near = regions[above:below]  # with the neighbours of the first and the last row
        missing = (1 if above == rows.start else 0, 1 if below == rows.stop else 0)
        across = np.pad(near[1:] != near[:-1], (missing, (0, 0)))
        along = np.pad(block[:, 1:] != block[:, :-1], ((0, 0), (1, 1)))
        touched = across[1:] | across[:-1] | along[:, 1:] | along[:, :-1]
        row, column = np.nonzero(touched & (block != 0))
        height, width = canvas.row_counts[rows][row], canvas.column_counts[column]
        sides_v = across[row, column].astype(np.intp) + across[row + 1, column]
        sides_h = along[row, column].astype(np.intp) + along[row, column + 1]
        weight = height * width - np.maximum(height - sides_v, 0) * np.maximum(width - sides_h, 0)
        region = block[row, column].astype(np.intp)
        entropy = canvas.decision.entropy[rows][row, column]
        self._rim += np.bincount(region, weight, self._size)
        self._rim_entropy += np.bincount(region, weight * entropy, self._size)

    def columns(self) -> dict[str, Numbers]:
        """Return the finished columns; 0 for a region without pixels, or without a rim."""
        means = {name: _ratio(total, self._area) for name, total in self._planes.items()}
        counts = self._histogram.reshape(self._size, self._bins)
        reached = np.cumsum(counts, axis=1) >= _PERCENTILE * counts.sum(axis=1, keepdims=True)
        return {
            **means,
            "margin_p10": reached.argmax(axis=1) / (self._bins - 1),
            "boundary_uncertainty": _ratio(self._rim_entropy, self._rim),
        }


def _ratio(total: Numbers, weight: Numbers) -> Numbers:
    return np.clip(total / np.maximum(weight, 1), 0, 1)
