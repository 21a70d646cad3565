"""The segments of one image with the score columns that order a review, all in [0, 1].

Everything is computed on the canvas with each pixel weighted by the number of image pixels it
becomes, so the numbers are those of the full-size map. What the score columns hold is written in
`schemas.records.Annotation`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovseg_core.decision.decide import Decision
from ovseg_core.decision.review_priority import image_priority
from ovseg_core.decision.segment_scores import (
    Scores,
    sampled_scores,
    segment_scores,
    visible_decision,
)
from ovseg_core.decision.segments import SegmentMap, cut_segments
from ovseg_core.resize.nearest import SizeHW
from ovseg_core.rle.encode import encode_runs
from ovseg_core.rle.map_runs import runs_at_size
from schemas.config import Calibration, MaskConfig
from schemas.records import MASK_KINDS, Annotation, ScoreRow
from schemas.score_columns import SCORE


@dataclass(frozen=True)
class ImageMasks:
    """The rows of one image in the tables `annotations` and `scores`."""

    segments: tuple[Annotation, ...]
    """By label, then by component."""
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
    cut, columns = _cut_and_score(decision, size_hw, masks)
    runs = runs_at_size(cut.runs, cut.canvas_hw, size_hw)
    if calibration is not None:
        columns[SCORE] = np.interp(columns[SCORE], calibration.scores, calibration.probabilities)
        thresholds = np.array([0.0, *map(calibration.threshold, names)])
        kept = columns[SCORE] >= thresholds[cut.labels]
        runs = runs.select(kept[runs.value])
    rles = encode_runs(runs, size_hw, masks.min_area_px)
    segments = tuple(
        Annotation(
            image_id=image_id,
            label=names[int(cut.labels[number]) - 1],
            category_id=int(cut.labels[number]),
            segment_index=index,
            kind=MASK_KINDS[masks.segments],
            height=size_hw[0],
            width=size_hw[1],
            rle_counts=rle.counts,
            area_px=rle.area_px,
            bbox_xywh=rle.bbox_xywh,
            area_frac=rle.area_px / (size_hw[0] * size_hw[1]),
            num_components=int(cut.num_components[number]),
            **{name: float(values[number]) for name, values in columns.items()},
        )
        for index, (number, rle) in enumerate(rles.items())
    )
    scores = _label_scores(image_id, decision, segments, names)
    missed = max(score.max_prob for score in scores)
    return ImageMasks(segments, scores, image_priority(map(vars, segments), missed))


def _cut_and_score(
    decision: Decision, size_hw: SizeHW, masks: MaskConfig
) -> tuple[SegmentMap, dict[str, Scores]]:
    """Return the segments of the canvas that reach the image, and their columns by name."""
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
