"""The score columns of every segment of a decision, as they would be at the image's own size.

Everything is summed on the canvas, each pixel weighted by the number of image pixels that it
becomes: first along runs of one label in a row, then the runs of each segment; and block of rows by
block of rows, so that memory does not grow with the image. On a large canvas a bounded number of
samples is summed instead (`decision.samples`). What each column holds is documented in
`schemas.records.Annotation`; formulas: docs/methods.md 14.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovseg_core.decision.decide import Decision, FloatMap
from ovseg_core.decision.samples import Samples
from ovseg_core.decision.segments import SegmentMap
from ovseg_core.decision.values import MARGIN_BINS, MARGIN_PERCENTILE
from ovseg_core.images.resize.nearest import SizeHW, nearest_counts
from schemas.score_columns import LOW_MARGIN, MEANS, RIM_ENTROPY

Scores = NDArray[np.float64]
"""(N + 1,) one score of every segment, by segment number; entry 0 means nothing."""

Weights = NDArray[np.integer | np.floating]
"""(N,) image pixels that each pixel stands for."""

_MAPS = ("confidence", "margin", "entropy", "objectness")
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
    visible: VisibleDecision, cut: SegmentMap, block_pixels: int = _BLOCK_PIXELS
) -> dict[str, Scores]:
    """Return the score columns of all segments by name, from the maps of all pixels.

    Args:
        visible: the decision.
        cut: its segments.
        block_pixels: pixels that are worked on at once.
    """
    sums = _Sums(len(cut.labels))
    for rows in _blocks(visible, block_pixels):
        segments = _add_runs(sums, visible, cut, rows)
        _add_rim(sums, visible, segments, rows)
    return sums.columns()


def sampled_scores(decision: Decision, samples: Samples, cut: SegmentMap) -> dict[str, Scores]:
    """Return the score columns of all segments by name, from the samples of a large canvas.

    Args:
        decision: with the values of the samples.
        samples: which pixels they are.
        cut: segments of the decision.
    """
    segments = cut.at(samples.rows, samples.columns, decision.label_map)
    weights = samples.weights
    sums = _Sums(len(cut.labels))
    sums.add(segments, weights, *(weights * getattr(decision, name) for name in _MAPS))
    sums.add_margins(segments, decision.margin, weights)
    rim = np.flatnonzero(samples.is_rim)
    sums.add_rim(segments[rim], weights[rim], decision.entropy[rim])
    return sums.columns()


def _blocks(visible: VisibleDecision, block_pixels: int) -> Iterator[slice]:
    height, width = visible.decision.label_map.shape
    step = max(1, block_pixels // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _add_runs(
    sums: "_Sums", visible: VisibleDecision, cut: SegmentMap, rows: slice
) -> NDArray[np.integer]:
    """Take a block's pixels, and return the segment of each (R, Wc)."""
    labels, column_counts = visible.decision.label_map, visible.column_counts
    block = labels[rows]
    start, length = _runs(block)
    row, column = np.divmod(start, block.shape[1])
    segment = cut.at(rows.start + row, column, labels)
    row_count, weight = visible.row_counts[rows][row], None  # one image pixel each
    if visible.row_counts.max() > 1 or column_counts.max() > 1:
        weight = np.outer(visible.row_counts[rows], column_counts).ravel()
    images = np.append(0, np.cumsum(column_counts))
    totals = (
        _sums_of_runs(getattr(visible.decision, name)[rows], start, length, column_counts)
        for name in _MAPS
    )
    area = row_count * (images[column + length] - images[column])
    sums.add(segment, area, *(row_count * total for total in totals))
    segments = np.repeat(segment, length)
    sums.add_margins(segments, visible.decision.margin[rows].ravel(), weight)
    return segments.reshape(block.shape)


def _runs(labels: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first pixel of each run of one label in a row, row-major, and its length."""
    flat = labels.ravel()
    is_first = np.empty(len(flat), bool)
    np.not_equal(flat[1:], flat[:-1], out=is_first[1:])
    is_first[:: labels.shape[1]] = True
    start = np.flatnonzero(is_first)
    return start, np.diff(start, append=len(flat))


def _sums_of_runs(
    values: FloatMap, start: NDArray[np.int64], length: NDArray[np.int64], counts: Weights
) -> NDArray[np.floating]:
    """Return the sums of values (R, Wc) along runs, each column weighted by its count."""
    if counts.max() > 1:
        values = values * counts.astype(np.float32)
    elif not any(values.strides):
        return values[0, 0] * length  # one number everywhere
    return np.add.reduceat(values.ravel(), start)


def _add_rim(
    sums: "_Sums", visible: VisibleDecision, segments: NDArray[np.integer], rows: slice
) -> None:
    """Take a block's rim pixels: those with a 4-neighbour outside their segment.

    A canvas pixel that becomes h x w image pixels and borders another segment on v of its upper
    and lower sides and on u of the others gives `h * w - max(h - v, 0) * max(w - u, 0)` of
    them to the rim. Neighbours of one label are always of one segment.
    """
    labels = visible.decision.label_map
    block = labels[rows]
    above, below = max(rows.start - 1, 0), min(rows.stop + 1, len(labels))
    near = labels[above:below]  # with the neighbours of the first and the last row
    missing = (1 if above == rows.start else 0, 1 if below == rows.stop else 0)
    across = np.pad(near[1:] != near[:-1], (missing, (0, 0)))
    along = np.pad(block[:, 1:] != block[:, :-1], ((0, 0), (1, 1)))
    touched = across[1:] | across[:-1] | along[:, 1:] | along[:, :-1]
    row, column = np.divmod(np.flatnonzero(touched), block.shape[1])
    height, width = visible.row_counts[rows][row], visible.column_counts[column]
    weight = np.ones(len(row), np.intp)
    if (height * width).max(initial=1) > 1:
        sides_v = across[row, column].astype(np.intp) + across[row + 1, column]
        sides_h = along[row, column].astype(np.intp) + along[row, column + 1]
        weight = height * width - np.maximum(height - sides_v, 0) * np.maximum(width - sides_h, 0)
    sums.add_rim(segments[row, column], weight, visible.decision.entropy[rows][row, column])


class _Sums:
    """Running sums by segment number."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bins = max(16, min(MARGIN_BINS, _HISTOGRAM_CELLS // size))
        self._area, self._rim, self._rim_entropy = np.zeros(size), np.zeros(size), np.zeros(size)
        self._weighted = np.zeros((len(_MAPS), size))
        self._histogram = np.zeros(size * self._bins)

    def add(
        self, segment: NDArray[np.integer], area: Weights, *totals: NDArray[np.floating]
    ) -> None:
        """Take runs or samples: the segment and image pixels of each, and sums of `_MAPS`."""
        segment = segment.astype(np.intp)
        self._area += np.bincount(segment, area, self._size)
        for mine, values in zip(self._weighted, totals, strict=True):
            mine += np.bincount(segment, values, self._size)

    def add_margins(
        self, segment: NDArray[np.integer], margin: FloatMap, weight: Weights | None
    ) -> None:
        """Take margins of pixels: the segment and image pixels of each; None: one."""
        cell = (margin * np.float32(self._bins - 1) + np.float32(0.5)).astype(np.int32)
        cell += segment * np.int32(self._bins)
        self._histogram += np.bincount(cell, weight, len(self._histogram))

    def add_rim(self, segment: NDArray[np.integer], weight: Weights, entropy: FloatMap) -> None:
        """Take pixels with a 4-neighbour outside their segment."""
        segment = segment.astype(np.intp)
        self._rim += np.bincount(segment, weight, self._size)
        self._rim_entropy += np.bincount(segment, weight * entropy, self._size)

    def columns(self) -> dict[str, Scores]:
        """Return the finished columns; 0 for a segment without pixels, or without a rim."""
        totals = zip(MEANS, self._weighted, strict=True)
        means = {name: _ratio(total, self._area) for name, total in totals}
        counts = self._histogram.reshape(self._size, self._bins)
        reached = np.cumsum(counts, axis=1) >= MARGIN_PERCENTILE * counts.sum(axis=1, keepdims=True)
        return {
            **means,
            LOW_MARGIN: reached.argmax(axis=1) / (self._bins - 1),
            RIM_ENTROPY: _ratio(self._rim_entropy, self._rim),
        }


def _ratio(total: Scores, weight: Scores) -> Scores:
    return np.clip(total / np.maximum(weight, 1), 0, 1)
