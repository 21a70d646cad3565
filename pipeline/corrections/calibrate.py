"""`ovseg calibrate`: what the review of a run says about its scores.

A predicted segment was right if the reviewed layer has a mask of its label from it with an IoU of
at least 0.5. Isotonic regression turns the mean probability into the share of right segments, over
all labels; a label's threshold is where the F1 of its right segments is best. The plot's "after"
is honest: every image is calibrated by the images of the other folds.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from sklearn.isotonic import IsotonicRegression

from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.matching import overlap
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row
from schemas.base import Frozen
from schemas.calibration import Calibration
from schemas.errors import UserError
from schemas.records import Share
from schemas.review import ReviewedMask
from schemas.score_columns import SCORE

Numbers = NDArray[np.float64]

FILE, PICTURE = "reviewed/calibration.json", "reviewed/reliability.png"
_FOLDS = 5
_DIGITS = 6
NUM_BINS = 10


class Rules(Frozen):
    """How to calibrate."""

    min_iou: Share = 0.5
    """IoU of prediction and correction from which a segment counts as right."""
    min_segments: PositiveInt = Field(default=20)
    """Labels with fewer reviewed segments share one threshold; a run with fewer is refused."""
    thresholds: bool = True
    """Find thresholds; without, no segment is dropped."""


@dataclass(frozen=True)
class Reviewed:
    """The reviewed segments of a run.

    Attributes:
        score: (N,) mean probability.
        right: (N,) whether the review agreed.
        label: (N,) names.
        fold: (N,) of cross-validation, by image.
    """

    score: Numbers
    right: NDArray[np.bool_]
    label: NDArray[np.str_]
    fold: NDArray[np.int64]


class Reliability(Frozen):
    """How far scores are from the truth."""

    expected_error: float
    """Mean distance of score and share of right segments over ten bins (ECE)."""
    brier: float
    """Mean square of score less outcome."""
    bins: tuple[tuple[float, float, int], ...]
    """(mean score, share right, segments) of each bin that has any."""


class LabelThreshold(Frozen):
    """One label."""

    name: str
    num_segments: int
    num_right: int
    threshold: float
    """Below which segments are dropped, on the calibrated scale."""
    num_dropped: int
    num_right_dropped: int


class CalibrationReport(Frozen):
    """What the calibration does, on the reviewed segments."""

    calibration: Calibration
    num_images: int
    num_right: int
    before: Reliability
    after: Reliability
    """Each image by a fit to the other folds' images."""
    labels: tuple[LabelThreshold, ...]


def calibrate(run: RunFolder, rules: Rules | None = None) -> CalibrationReport:
    """Fit scores and thresholds to the reviewed layer.

    Raises:
        UserError: too little was reviewed, all of it right, wrong or of one image, or a calibrated
            run.
    """
    rules = rules or Rules()
    if run.info.job().calibration is not None:
        raise UserError(
            "the scores of this run are calibrated already: calibrate a run that was made without"
        )
    layer = ReviewedLayer(run)
    reviewed = _collect(layer, rules.min_iou)
    _check(reviewed, len(layer.images), rules)
    fitted = _fit(reviewed.score, reviewed.right)
    xs, ys = (np.round(part, _DIGITS) for part in fitted)
    calibrated = np.interp(reviewed.score, xs, ys)
    thresholds, default = _thresholds(calibrated, reviewed, rules)
    calibration = Calibration(
        method=run.info.job().method.name,
        scores=tuple(xs.tolist()),
        probabilities=tuple(ys.tolist()),
        thresholds=thresholds,
        default_threshold=default,
        min_iou=rules.min_iou,
        num_segments=len(reviewed.score),
        fingerprint=run.fingerprint,
    )
    return CalibrationReport(
        calibration=calibration,
        num_images=len(layer.images),
        num_right=int(reviewed.right.sum()),
        before=reliability(reviewed.score, reviewed.right),
        after=reliability(_held_out(reviewed), reviewed.right),
        labels=tuple(_labels(calibrated, reviewed, calibration)),
    )


def _collect(layer: ReviewedLayer, min_iou: float) -> Reviewed:
    rows = list(_outcomes(layer, min_iou))
    score, right, label, image = zip(*rows, strict=True) if rows else ((), (), (), ())
    # By rank: of few images too each fold has its share.
    shuffled = sorted(set(image), key=lambda image_id: zlib.crc32(image_id.encode()))
    fold = {image_id: place % _FOLDS for place, image_id in enumerate(shuffled)}
    return Reviewed(
        np.array(score, np.float64),
        np.array(right, bool),
        np.array(label),
        np.array([fold[image_id] for image_id in image], int),
    )


def _outcomes(layer: ReviewedLayer, min_iou: float) -> Iterator[tuple[float, bool, str, str]]:
    for image_id in (*layer.images, *layer.begun()):
        fate = layer.outcome(image_id) or {}
        for row in layer.predicted(image_id):
            if row["segment_index"] in fate:
                right = _is_right(row, fate[row["segment_index"]], min_iou)
                yield row[SCORE], right, row["label"], image_id


def _is_right(row: Row, mask: ReviewedMask | None, min_iou: float) -> bool:
    if mask is None or mask.label != row["label"]:
        return False
    size_hw = row["height"], row["width"]
    shared, union = overlap([row["rle_counts"]], [mask.rle_counts], size_hw)
    return shared >= min_iou * union


def _check(reviewed: Reviewed, num_images: int, rules: Rules) -> None:
    count, right = len(reviewed.score), int(reviewed.right.sum())
    if count < rules.min_segments:
        raise UserError(
            f"{count} segments of {num_images} images are reviewed, expected "
            f"{rules.min_segments} or more: review further images, the doubtful and the sure ones"
        )
    if not reviewed.fold.any():
        raise UserError(
            f"all {count} reviewed segments are of one image, which says nothing about others: "
            "review further images"
        )
    if right in (0, count):
        raise UserError(
            f"all {count} reviewed segments are {'right' if right else 'wrong'}: there is nothing "
            "to tell scores apart by; review further images"
        )


def _fit(score: Numbers, right: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(score, right.astype(float))
    xs = np.asarray(model.X_thresholds_, np.float64)
    ys = np.asarray(model.y_thresholds_, np.float64)
    rounded, first = np.unique(xs.round(_DIGITS), return_index=True)
    return np.array(rounded, np.float64), ys[first]


def _held_out(reviewed: Reviewed) -> Numbers:
    """Return every score calibrated without its own fold."""
    after = reviewed.score.copy()
    for fold in np.unique(reviewed.fold):
        ours = reviewed.fold == fold
        xs, ys = _fit(reviewed.score[~ours], reviewed.right[~ours])
        after[ours] = np.interp(reviewed.score[ours], xs, ys)
    return after


def _thresholds(
    calibrated: Numbers, reviewed: Reviewed, rules: Rules
) -> tuple[dict[str, float], float]:
    if not rules.thresholds:
        return {}, 0.0
    found = {}
    for name in np.unique(reviewed.label).tolist():
        ours = reviewed.label == name
        if ours.sum() >= rules.min_segments and reviewed.right[ours].any():
            found[name] = best_threshold(calibrated[ours], reviewed.right[ours])
    return found, best_threshold(calibrated, reviewed.right)


def best_threshold(score: Numbers, right: NDArray[np.bool_]) -> float:
    """Return the score from which on the F1 of the right segments is best; 0: of all of them.

    It lies half way to the next lower score, so that rounding does not decide: scores that differ
    in later digits only, as those of one step of the map do, are one.
    """
    score = score.round(_DIGITS - 1)
    order = np.argsort(score, kind="stable")
    candidates, first = np.unique(score[order], return_index=True)
    true = right.sum() - np.append(0, np.cumsum(right[order]))[first]  # right ones from each on
    f1 = 2 * true / (len(score) - first + right.sum())
    best = int(f1.argmax())
    return round(float(candidates[best - 1 : best + 1].mean()), _DIGITS) if best else 0.0


def _labels(
    calibrated: Numbers, reviewed: Reviewed, calibration: Calibration
) -> Iterator[LabelThreshold]:
    for name in np.unique(reviewed.label).tolist():
        ours = reviewed.label == name
        dropped = ours & (calibrated < calibration.threshold(name))
        yield LabelThreshold(
            name=name,
            num_segments=int(ours.sum()),
            num_right=int(reviewed.right[ours].sum()),
            threshold=calibration.threshold(name),
            num_dropped=int(dropped.sum()),
            num_right_dropped=int((dropped & reviewed.right).sum()),
        )


def reliability(score: Numbers, right: NDArray[np.bool_]) -> Reliability:
    """Compare scores (N,) with outcomes (N,)."""
    place = np.minimum((score * NUM_BINS).astype(int), NUM_BINS - 1)
    counts = np.bincount(place, minlength=NUM_BINS)
    sums: Any = [np.bincount(place, part, NUM_BINS) for part in (score, right.astype(float))]
    gaps = np.abs(sums[0] - sums[1]).sum() / max(len(score), 1)
    return Reliability(
        expected_error=float(gaps),
        brier=float(np.mean((score - right) ** 2)),
        bins=tuple(
            (float(sums[0][k] / n), float(sums[1][k] / n), int(n))
            for k, n in enumerate(counts.tolist())
            if n
        ),
    )
