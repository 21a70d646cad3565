"""The segments of one image with the score columns that order a review, all in [0, 1].

Everything is computed on the canvas with each pixel weighted by the number of image pixels it
becomes, so the numbers are those of the full-size map. The columns are the usual ones of
annotation tools: mean probability, margin between the best two labels, entropy, objectness, and
how sure the rim is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ovseg_core.decide import Decision
from ovseg_core.nearest import SizeHW, nearest_counts
from ovseg_core.rle import encode_regions
from ovseg_core.segments import Cut, cut
from schemas.config import MaskConfig

Numbers = NDArray[np.float64]

_PERCENTILE = 0.10
_MARGIN_BINS = 1024
"""The percentile is read from a histogram: right to half a bin, 0.0005."""
_HISTOGRAM_CELLS = 1 << 22
"""Of all segments together; many thousands of segments get fewer bins, but never under 16."""


@dataclass(frozen=True)
class SegmentStats:
    """One segment: the fields of `schemas.records.Annotation` but `image_id`."""

    label: str
    category_id: int
    segment_index: int
    height: int
    width: int
    rle_counts: str
    area_px: int
    bbox_xywh: tuple[float, float, float, float]
    mean_prob: float
    margin_mean: float
    margin_p10: float
    entropy_mean: float
    saliency_mean: float
    boundary_uncertainty: float
    area_frac: float
    num_components: int


@dataclass(frozen=True)
class LabelScore:
    """One label, found or not: the fields of `schemas.records.ScoreRow` but `image_id`."""

    label: str
    category_id: int
    max_prob: float
    mean_prob: float
    area_frac: float


@dataclass(frozen=True)
class ImageMasks:
    """All that is said about one image."""

    segments: tuple[SegmentStats, ...]
    label_scores: tuple[LabelScore, ...]
    review_priority: float
    """1: look at this image first."""


@dataclass(frozen=True)
class _Canvas:
    """The rows and columns of a decision that reach the image; each becomes >= 1 image pixels."""

    decision: Decision
    row_counts: NDArray[np.int64]
    column_counts: NDArray[np.int64]

    def weights(self, pixels: NDArray[np.intp]) -> NDArray[np.int64] | None:
        """Return how many image pixels each canvas pixel (flat index) becomes; None: one each."""
        if self.row_counts.max() == 1 and self.column_counts.max() == 1:
            return None
        row, column = np.divmod(pixels, len(self.column_counts))
        return self.row_counts[row] * self.column_counts[column]


@dataclass(frozen=True)
class _Members:
    """Pixels of regions: the region (P,) of each and its weight (P,), None for one each."""

    region: NDArray[np.intp]
    weight: NDArray[np.int64] | None
    size: int
    """N + 1, background with them."""

    def mean(self, values: NDArray[np.float32]) -> Numbers:
        """Return the weighted mean of values (P,) in [0, 1] of each region; 0 without pixels."""
        weighted = values if self.weight is None else self.weight * values
        sums = np.bincount(self.region, weighted, self.size)
        return np.clip(sums / np.maximum(self.areas, 1), 0, 1)

    @cached_property
    def areas(self) -> Numbers:
        """Image pixels of each region."""
        return np.bincount(self.region, self.weight, self.size).astype(np.float64)


def image_rows(
    decision: Decision, size_hw: SizeHW, names: Sequence[str], masks: MaskConfig
) -> ImageMasks:
    """Cut, measure and encode one image.

    Args:
        decision: on its canvas.
        size_hw: the image's own size, where the masks live.
        names: label names in vocabulary order, without background.
        masks: how to cut.
    """
    num_labels = len(decision.class_mean_prob) - 1
    if len(names) != num_labels:
        raise ValueError(
            f"expected the names of {num_labels} labels, without background, got {len(names)}"
        )
    canvas = _visible(decision, size_hw)
    whole = cut(canvas.decision.label_map, masks.segments)
    columns = _columns(canvas, whole)
    rles = encode_regions(whole.regions, size_hw, masks.min_area_px)
    segments = tuple(
        SegmentStats(
            label=names[int(whole.labels[number]) - 1],
            category_id=int(whole.labels[number]),
            segment_index=index,
            height=size_hw[0],
            width=size_hw[1],
            rle_counts=rle.counts,
            area_px=rle.area_px,
            bbox_xywh=rle.bbox_xywh,
            area_frac=rle.area_px / (size_hw[0] * size_hw[1]),
            num_components=int(whole.num_components[number]),
            **{name: float(values[number]) for name, values in columns.items()},
        )
        for index, (number, rle) in enumerate(rles.items())
    )
    scores = _label_scores(decision, segments, names)
    return ImageMasks(segments, scores, review_priority(segments, scores))


def review_priority(segments: Sequence[SegmentStats], scores: Sequence[LabelScore]) -> float:
    """Return how much an image deserves a look, 1 first.

    The most doubtful segment decides: `1 - mean_prob * margin_mean`. Without any segment the
    doubt is about what may have been missed: the highest probability that any label reached
    anywhere.
    """
    if segments:
        return max(1 - segment.mean_prob * segment.margin_mean for segment in segments)
    return max(score.max_prob for score in scores)


def _visible(decision: Decision, size_hw: SizeHW) -> _Canvas:
    """Drop the canvas rows and columns that a reduction to the image's size skips."""
    rows, columns = (
        nearest_counts(num_in, num_out)
        for num_in, num_out in zip(decision.label_map.shape, size_hw, strict=True)
    )
    if not (rows.all() and columns.all()):
        used = np.ix_(rows > 0, columns > 0)
        maps = ("label_map", "confidence", "margin", "entropy", "saliency")
        decision = replace(decision, **{name: getattr(decision, name)[used] for name in maps})
    return _Canvas(decision, rows[rows > 0], columns[columns > 0])


def _columns(canvas: _Canvas, whole: Cut) -> dict[str, Numbers]:
    """Return the score columns, each (N + 1,) by region number; entry 0 means nothing."""
    pixels = np.flatnonzero(whole.regions)
    members = _Members(
        whole.regions.ravel()[pixels].astype(np.intp), canvas.weights(pixels), len(whole.labels)
    )
    decision = canvas.decision
    margin = decision.margin.ravel()[pixels]
    return {
        "mean_prob": members.mean(decision.confidence.ravel()[pixels]),
        "margin_mean": members.mean(margin),
        "margin_p10": _low_percentile(margin, members),
        "entropy_mean": members.mean(decision.entropy.ravel()[pixels]),
        "saliency_mean": members.mean(decision.saliency.ravel()[pixels]),
        "boundary_uncertainty": _rim_mean(canvas, whole),
    }


def _low_percentile(values: NDArray[np.float32], members: _Members) -> Numbers:
    """Return each region's 10th percentile of values in [0, 1], from one histogram per region."""
    bins = max(16, min(_MARGIN_BINS, _HISTOGRAM_CELLS // members.size))
    cell = members.region * bins + np.rint(values * (bins - 1)).astype(np.intp)
    counts = np.bincount(cell, members.weight, members.size * bins).reshape(-1, bins)
    reached = np.cumsum(counts, axis=1) >= _PERCENTILE * counts.sum(axis=1, keepdims=True)
    return reached.argmax(axis=1) / (bins - 1)


def _rim_mean(canvas: _Canvas, whole: Cut) -> Numbers:
    """Return the mean entropy of each region's rim (pixels with a 4-neighbour outside); 0 if none.

    A canvas pixel that becomes h x w image pixels and borders another region on v of its upper and
    lower sides and on u of the others gives `h * w - max(h - v, 0) * max(w - u, 0)` of them to the
    rim.
    """
    regions = whole.regions
    across = np.pad(regions[1:] != regions[:-1], ((1, 1), (0, 0)))
    along = np.pad(regions[:, 1:] != regions[:, :-1], ((0, 0), (1, 1)))
    touched = across[1:] | across[:-1] | along[:, 1:] | along[:, :-1]
    row, column = np.nonzero(touched & (regions != 0))
    height, width = canvas.row_counts[row], canvas.column_counts[column]
    sides_v = across[row, column].astype(np.intp) + across[row + 1, column]
    sides_h = along[row, column].astype(np.intp) + along[row, column + 1]
    weight = height * width - np.maximum(height - sides_v, 0) * np.maximum(width - sides_h, 0)
    rim = _Members(regions[row, column].astype(np.intp), weight, len(whole.labels))
    return rim.mean(canvas.decision.entropy[row, column])


def _label_scores(
    decision: Decision, segments: Sequence[SegmentStats], names: Sequence[str]
) -> tuple[LabelScore, ...]:
    area_frac = np.zeros(len(names) + 1)
    for segment in segments:
        area_frac[segment.category_id] += segment.area_frac
    return tuple(
        LabelScore(
            label=name,
            category_id=index,
            max_prob=float(decision.class_max_prob[index]),
            mean_prob=float(decision.class_mean_prob[index]),
            area_frac=min(1.0, float(area_frac[index])),
        )
        for index, name in enumerate(names, start=1)
    )
