"""The segments of one image with the score columns that order a review, all in [0, 1].

Everything is computed on the canvas with each pixel weighted by the number of image pixels it
becomes, so the numbers are those of the full-size map. The columns are the usual ones of
annotation tools: mean probability, margin between the best two labels, entropy, objectness, and
how sure the rim is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovseg_core.decision.decide import Decision
from ovseg_core.decision.review_priority import image_priority
from ovseg_core.decision.segment_scores import Numbers, score_columns, visible
from ovseg_core.decision.segments import cut_regions
from ovseg_core.resize.nearest import SizeHW
from ovseg_core.rle.encode import encode_regions
from schemas.calibration import Calibration
from schemas.config import MaskConfig


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
    """1: look at this image first; see `review_order`."""


def image_rows(
    decision: Decision,
    size_hw: SizeHW,
    names: Sequence[str],
    masks: MaskConfig,
    calibration: Calibration | None = None,
) -> ImageMasks:
    """Cut, measure and encode one image.

    Args:
        decision: on its canvas.
        size_hw: the image's own size, where the masks live.
        names: label names in vocabulary order, without background.
        masks: how to cut.
        calibration: turns mean probabilities into what a review found, and drops segments below
            the threshold of their label; None: all stay as they are.
    """
    num_labels = len(decision.class_mean_prob) - 1
    if len(names) != num_labels:
        raise ValueError(
            f"expected the names of {num_labels} labels, without background, got {len(names)}"
        )
    canvas = visible(decision, size_hw)
    whole = cut_regions(canvas.decision.label_map, masks.segments)
    columns = score_columns(canvas, whole.regions, len(whole.labels) - 1)
    if calibration is not None:
        columns["mean_prob"] = _calibrated(columns["mean_prob"], calibration)
        limits = np.array([0.0, *map(calibration.threshold, names)])
        dropped = columns["mean_prob"] < limits[whole.labels]
        whole = replace(whole, regions=np.where(dropped[whole.regions], 0, whole.regions))
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
    missed = max(score.max_prob for score in scores)
    return ImageMasks(segments, scores, image_priority(map(vars, segments), missed))


def _calibrated(score: Numbers, calibration: Calibration) -> Numbers:
    return np.interp(score, calibration.scores, calibration.probabilities)


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
