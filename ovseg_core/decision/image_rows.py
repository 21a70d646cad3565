"""The segments of one image with the score columns that order a review, all in [0, 1].

Everything is computed on the canvas with each pixel weighted by the number of image pixels it
becomes, so the numbers are those of the full-size map. What the score columns hold is written in
`schemas.records.Annotation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovseg_core.decision.decide import Decision
from ovseg_core.decision.review_priority import image_priority
from ovseg_core.decision.segment_scores import (
    Scores,
    sampled_scores,
    segment_scores,
    visible_decision,
)
from ovseg_core.decision.segments import SegmentMap, cut_segments
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.encode import encode_runs
from ovseg_core.rle.map_runs import runs_at_size
from schemas.config import Calibration, MaskConfig
from schemas.records import MASK_KINDS, Annotation, ScoreRow
from schemas.score_columns import SCORE


@dataclass(frozen=True)
class ImageMasks:
    """The rows of one image in the tables `annotations` and `scores`."""

    segments: tuple[Annotation, ...]
    """By label, then by component, or by falling score of instances."""
    label_scores: tuple[ScoreRow, ...]
    """One for each label, found or not, in vocabulary order."""
    review_priority: float
    """1: look at this image first; see `review_priority.image_priority`."""


def image_rows(
    decision: Decision,
    size_hw: SizeHW,
    names: Sequence[str],
    masks: MaskConfig,
    calibration: Calibration | None = None,
    image_id: str = "",
) -> ImageMasks:
    """Cut the segments of one image, compute their scores and encode them as RLE.

    Args:
        decision: on its canvas.
        size_hw: the image's own size, where the masks live.
        names: label names in vocabulary order, without background.
        masks: how to cut.
        calibration: turns mean probabilities into what a review found, and drops segments below
            the threshold of their label; None: all stay as they are.
        image_id: of the rows.
    """
    num_labels = len(decision.class_mean_prob) - 1
    if len(names) != num_labels:
        raise ValueError(
            f"expected the names of {num_labels} labels, without background, got {len(names)}"
        )
    if (instances := decision.instances) is not None:
        labels, num_components = instances.labels, instances.num_components
        columns = dict(instances.columns)
        kept = _calibrated(columns, labels, names, calibration)
        rles = {
            number: rle
            for number, rle in enumerate(instances.rles)
            if kept[number] and rle.area_px >= masks.min_area_px
        }
    else:
        cut, columns = _cut_and_score(decision, size_hw, masks)
        labels, num_components = cut.labels, cut.num_components
        kept = _calibrated(columns, labels, names, calibration)
        runs = runs_at_size(cut.runs, cut.canvas_hw, size_hw)
        rles = encode_runs(runs.select(kept[runs.value]), size_hw, masks.min_area_px)
    segments = tuple(
        Annotation(
            image_id=image_id,
            label=names[int(labels[number]) - 1],
            category_id=int(labels[number]),
            segment_index=index,
            height=size_hw[0],
            width=size_hw[1],
            rle_counts=rle.counts,
            area_px=rle.area_px,
            bbox_xywh=rle.bbox_xywh,
            kind=MASK_KINDS[masks.segments],
            area_frac=rle.area_px / (size_hw[0] * size_hw[1]),
            num_components=int(num_components[number]),
            **{name: float(values[number]) for name, values in columns.items()},
        )
        for index, (number, rle) in enumerate(rles.items())
    )
    scores = _label_scores(image_id, decision, segments, names)
    missed = max(score.max_prob for score in scores)
    return ImageMasks(segments, scores, image_priority(map(vars, segments), missed))


def _calibrated(
    columns: dict[str, Scores],
    labels: NDArray[np.int64],
    names: Sequence[str],
    calibration: Calibration | None,
) -> NDArray[np.bool_]:
    """Calibrate the scores in place; return which segments reach the threshold of their label."""
    if calibration is None:
        return np.ones(len(labels), bool)
    columns[SCORE] = np.interp(columns[SCORE], calibration.scores, calibration.probabilities)
    thresholds = np.array([0.0, *map(calibration.threshold, names)])
    return columns[SCORE] >= thresholds[labels]


def _cut_and_score(
    decision: Decision, size_hw: SizeHW, masks: MaskConfig
) -> tuple[SegmentMap, dict[str, Scores]]:
    """Return the segments of the canvas that reach the image, and their columns by name."""
    if masks.segments == "instances":
        raise ValueError("expected a decision with instances, got one without proposals")
    if (samples := decision.samples) is not None:
        cut = cut_segments(decision.label_map, masks.segments)
        return cut, sampled_scores(decision, samples, cut)
    visible = visible_decision(decision, size_hw)
    cut = cut_segments(visible.decision.label_map, masks.segments)
    return cut, segment_scores(visible, cut)


def _label_scores(
    image_id: str, decision: Decision, segments: Sequence[Annotation], names: Sequence[str]
) -> tuple[ScoreRow, ...]:
    area_frac = np.zeros(len(names) + 1)
    for segment in segments:
        area_frac[segment.category_id] += segment.area_frac
    return tuple(
        ScoreRow(
            image_id=image_id,
            label=name,
            category_id=index,
            max_prob=float(decision.class_max_prob[index]),
            mean_prob=float(decision.class_mean_prob[index]),
            area_frac=min(1.0, float(area_frac[index])),
        )
        for index, name in enumerate(names, start=1)
    )
