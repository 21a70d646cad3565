"""The score columns of every segment of a decision, as they would be at the image's own size.

Everything is summed on the canvas, each pixel weighted by the number of image pixels that it
becomes, and block of rows by block of rows, so that memory does not grow with the image; on a large
canvas a bounded number of samples is summed instead (`decision.samples`). What each column holds is
documented in `schemas.records.Annotation`; formulas: docs/methods.md 14.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovseg_core.decision.decide import Decision
from ovseg_core.decision.samples import Samples
from ovseg_core.resize.nearest import SizeHW, nearest_counts

Scores = NDArray[np.float64]
"""(N + 1,) one score of every segment, by segment number; entry 0 means nothing."""

Weights = NDArray[np.integer | np.floating]
"""(N,) image pixels that each pixel stands for."""

_MAPS = ("confidence", "margin", "entropy", "objectness")
_MEANS = ("mean_prob", "margin_mean", "entropy_mean", "objectness_mean")
"""Columns: the means of `_MAPS`."""
_PERCENTILE = 0.10
_MARGIN_BINS = 1024
"""The percentile is read from a histogram: right to half a bin, 0.0005."""
_HISTOGRAM_CELLS = 1 << 22
"""Of all segments together; many thousands of segments get fewer bins, but never under 16."""
_BLOCK_PIXELS = 1 << 19


@dataclass(frozen=True)
class VisibleDecision:
    """The rows and columns of a decision that reach the image; each becomes >= 1 image pixels."""

    decision: Decision
    row_counts: NDArray[np.int64]
    """(Hc,) image rows that each row becomes."""
    column_counts: NDArray[np.int64]
    """(Wc,) image columns that each column becomes."""


def visible_decision(decision: Decision, size_hw: SizeHW) -> VisibleDecision:
    """Drop the canvas rows and columns that a reduction to the image's size skips."""
    rows, columns = (
        nearest_counts(num_in, num_out)
        for num_in, num_out in zip(decision.label_map.shape, size_hw, strict=True)
    )
    if not (rows.all() and columns.all()):
        used = np.ix_(rows > 0, columns > 0)
        maps = {name: getattr(decision, name)[used] for name in ("label_map", *_MAPS)}
        decision = replace(decision, **maps)
    return VisibleDecision(decision, rows[rows > 0], columns[columns > 0])


def segment_scores(
    visible: VisibleDecision,
    segments: NDArray[np.integer],
    num_segments: int,
    block_pixels: int = _BLOCK_PIXELS,
) -> dict[str, Scores]:
    """Return the score columns of all segments by name, from the maps of all pixels.

    Args:
        visible: the decision.
        segments: (Hc, Wc) segment numbers from 1; 0 is no segment.
        num_segments: N.
        block_pixels: pixels that are worked on at once.
    """
    sums = _Sums(num_segments + 1)
    for rows in _blocks(visible, block_pixels):
        _add_block(sums, visible, segments, rows)
        _add_rim(sums, visible, segments, rows)
    return sums.columns()


def sampled_scores(
    decision: Decision, samples: Samples, segments: NDArray[np.integer], num_segments: int
) -> dict[str, Scores]:
    """Return the score columns of all segments by name, from the samples of a large canvas.

    Args:
        decision: with the values of the samples.
        samples: which pixels they are.
        segments: (N,) segment number of each sample; 0 is no segment.
        num_segments: number of segments.
    """
    sums = _Sums(num_segments + 1)
    sums.add(segments, samples.weights, *(getattr(decision, name) for name in _MAPS))
    rim = slice(samples.num_rim)
    sums.add_rim(segments[rim], samples.weights[rim], decision.entropy[rim])
    return sums.columns()


def _blocks(visible: VisibleDecision, block_pixels: int) -> Iterator[slice]:
    height, width = visible.decision.label_map.shape
    step = max(1, block_pixels // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _add_block(
    sums: "_Sums", visible: VisibleDecision, segments: NDArray[np.integer], rows: slice
) -> None:
    """Take a block's pixels."""
    block = segments[rows].ravel()
    pixels = np.flatnonzero(block)
    weight = None  # one image pixel each
    if visible.row_counts.max() > 1 or visible.column_counts.max() > 1:
        row, column = np.divmod(pixels, len(visible.column_counts))
        weight = visible.row_counts[rows][row] * visible.column_counts[column]
    maps = (getattr(visible.decision, name)[rows].ravel()[pixels] for name in _MAPS)
    sums.add(block[pixels], weight, *maps)


def _add_rim(
    sums: "_Sums", visible: VisibleDecision, segments: NDArray[np.integer], rows: slice
) -> None:
    """Take a block's rim pixels: those with a 4-neighbour outside their segment.

    A canvas pixel that becomes h x w image pixels and borders another segment on v of its upper
    and lower sides and on u of the others gives `h * w - max(h - v, 0) * max(w - u, 0)` of
    them to the rim.
    """
    block = segments[rows]
    above, below = max(rows.start - 1, 0), min(rows.stop + 1, len(segments))
    near = segments[above:below]  # with the neighbours of the first and the last row
    missing = (1 if above == rows.start else 0, 1 if below == rows.stop else 0)
    across = np.pad(near[1:] != near[:-1], (missing, (0, 0)))
    along = np.pad(block[:, 1:] != block[:, :-1], ((0, 0), (1, 1)))
    touched = across[1:] | across[:-1] | along[:, 1:] | along[:, :-1]
    row, column = np.nonzero(touched & (block != 0))
    height, width = visible.row_counts[rows][row], visible.column_counts[column]
    sides_v = across[row, column].astype(np.intp) + across[row + 1, column]
    sides_h = along[row, column].astype(np.intp) + along[row, column + 1]
    weight = height * width - np.maximum(height - sides_v, 0) * np.maximum(width - sides_h, 0)
    sums.add_rim(block[row, column], weight, visible.decision.entropy[rows][row, column])


class _Sums:
    """Running sums by segment number."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bins = max(16, min(_MARGIN_BINS, _HISTOGRAM_CELLS // size))
        self._area, self._rim, self._rim_entropy = np.zeros(size), np.zeros(size), np.zeros(size)
        self._weighted = np.zeros((len(_MAPS), size))
        self._histogram = np.zeros(size * self._bins)

    def add(
        self, segment: NDArray[np.integer], weight: Weights | None, *maps: NDArray[np.float32]
    ) -> None:
        """Take pixels: their segments, image pixels of each and values of the decision's maps."""
        segment = segment.astype(np.intp)
        self._area += np.bincount(segment, weight, self._size)
        for total, values in zip(self._weighted, maps, strict=True):
            weighted = values if weight is None else weight * values
            total += np.bincount(segment, weighted, self._size)
        margin = maps[_MAPS.index("margin")]
        cell = segment * self._bins + np.rint(margin * (self._bins - 1)).astype(np.intp)
        self._histogram += np.bincount(cell, weight, len(self._histogram))

    def add_rim(
        self, segment: NDArray[np.integer], weight: Weights, entropy: NDArray[np.float32]
    ) -> None:
        """Take pixels with a 4-neighbour outside their segment."""
        segment = segment.astype(np.intp)
        self._rim += np.bincount(segment, weight, self._size)
        self._rim_entropy += np.bincount(segment, weight * entropy, self._size)

    def columns(self) -> dict[str, Scores]:
        """Return the finished columns; 0 for a segment without pixels, or without a rim."""
        totals = zip(_MEANS, self._weighted, strict=True)
        means = {name: _ratio(total, self._area) for name, total in totals}
        counts = self._histogram.reshape(self._size, self._bins)
        reached = np.cumsum(counts, axis=1) >= _PERCENTILE * counts.sum(axis=1, keepdims=True)
        return {
            **means,
            "margin_p10": reached.argmax(axis=1) / (self._bins - 1),
            "boundary_uncertainty": _ratio(self._rim_entropy, self._rim),
        }


def _ratio(total: Scores, weight: Scores) -> Scores:
    return np.clip(total / np.maximum(weight, 1), 0, 1)
