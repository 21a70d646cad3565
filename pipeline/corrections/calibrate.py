"""`ovseg calibrate`: fit scores and thresholds of a run to its review.

A predicted segment is right if its corrected mask has the same label and an IoU of at least 0.5
with it. Isotonic regression maps the mean probability to the share of right segments, over all
labels. A label's threshold is the score with the best F1 of its right segments. The plot's "after"
is cross-validated: every image is calibrated with a fit to the images of the other folds.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from sklearn.isotonic import IsotonicRegression

from pipeline.corrections.imports import CALIBRATION
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.matching import overlap
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row
from pipeline.run.tables.damaged import Damage
from schemas.base import Frozen
from schemas.config import Calibration
from schemas.errors import UserError
from schemas.records import Share
from schemas.review import ReviewedMask
from schemas.score_columns import SCORE

Numbers = NDArray[np.float64]

FILE, PICTURE = CALIBRATION, "reviewed/reliability.png"
_FOLDS = 5
_DIGITS = 6
NUM_BINS = 10


class Rules(Frozen):
    """How to calibrate."""

    min_iou: Share = 0.5
    """IoU of prediction and correction from which a segment counts as right."""
    min_segments: PositiveInt = Field(default=20)
    """Labels with fewer reviewed segments share one threshold; a run needs at least as many."""
    thresholds: bool = True
    """Fit thresholds; if false, no segment is dropped."""
    max_unknown: Share = 0.5
    """A label is refused if a larger share of its reviewed segments has become masks of labels that
    the run does not have: what is left of them is no sample."""


@dataclass(frozen=True)
class Reviewed:
    """The reviewed segments of a run.

    Attributes:
        score: (N,) mean probability.
        right: (N,) whether the review kept the segment, see the module.
        label: (N,) names.
        fold: (N,) of cross-validation, by image.
    """

    score: Numbers
    right: NDArray[np.bool_]
    label: NDArray[np.str_]
    fold: NDArray[np.int64]


class Reliability(Frozen):
    """How well scores agree with the share of right segments."""

    expected_error: float
    """Expected calibration error (ECE): mean |score - share of right segments| over ten bins."""
    brier: float
    """Brier score: mean (score - outcome)²."""
    bins: tuple[tuple[float, float, int], ...]
    """(mean score, share of right segments, number of segments) of each bin with segments."""


class LabelThreshold(Frozen):
    """The threshold of one label, and what it drops of the reviewed segments."""

    name: str
    num_segments: int
    num_right: int
    threshold: float
    """Segments with a lower calibrated score are dropped."""
    num_dropped: int
    num_right_dropped: int


class CalibrationReport(Frozen):
    """A calibration, and its effect on the reviewed segments."""

    calibration: Calibration
    num_images: int
    num_unchanged: int
    """Of these, images that were imported as predicted, from a tool that tells no time of a
    person."""
    num_right: int
    before: Reliability
    after: Reliability
    """Cross-validated, by image."""
    labels: tuple[LabelThreshold, ...]
    damaged: dict[str, Damage]
    """What of the run and its review was left out, as no ovseg wrote it, by what it is."""

    @property
    def without_effect(self) -> str:
        """That the thresholds drop no segment, and why, in words; empty: they drop some."""
        if any(label.num_dropped for label in self.labels):
            return ""
        num_segments = self.calibration.num_segments
        if 10 * (num_segments - self.num_right) < num_segments:
            why = "hardly a reviewed one is wrong"
        else:
            why = (
                "the wrong ones score no lower than the right ones, or too few are reviewed to tell"
            )
        return f"the thresholds drop no segment ({why})"


def calibrate(run: RunFolder, rules: Rules | None = None) -> CalibrationReport:
    """Fit scores and thresholds to the reviewed layer.

    Raises:
        UserError: too few segments are reviewed, all of them are right, wrong or of one image, most
            of a label's are unknown, or the run is calibrated already.
    """
    rules = rules or Rules()
    if run.info.job().calibration is not None:
        raise UserError(
            "the scores of this run are calibrated already: expected a run without `calibration`"
        )
    layer = ReviewedLayer(run)
    reviewed = _collect(layer, rules.min_iou)
    _check_unknown(layer, reviewed, rules.max_unknown)
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
        num_unchanged=layer.num_unchanged,
        num_right=int(reviewed.right.sum()),
        before=reliability(reviewed.score, reviewed.right),
        after=reliability(_held_out(reviewed), reviewed.right),
        labels=tuple(_labels(calibrated, reviewed, calibration)),
        damaged=layer.left_out(),
    )


def segments_needed(run: RunFolder) -> int:
    """Return how many more decided segments a run needs to be calibrated; 0: it has enough."""
    wanted = Rules().min_segments
    return wanted - sum(1 for _ in islice(_decided(ReviewedLayer(run)), wanted))


def _decided(layer: ReviewedLayer) -> Iterator[tuple[str, Row, ReviewedMask | None]]:
    """Yield every decided segment: its image, its row, and what the review made of it."""
    for image_id in (*layer.images, *layer.partly_reviewed()):
        outcomes = layer.outcomes(image_id) or {}
        unknown = layer.unknown_segments(image_id)
        for row in layer.predicted(image_id):
            if row["segment_index"] in outcomes and row["segment_index"] not in unknown:
                yield image_id, row, outcomes[row["segment_index"]]


def _collect(layer: ReviewedLayer, min_iou: float) -> Reviewed:
    """Return every decided segment of the layer, and whether the review kept it."""
    rows: list[tuple[float, bool, str, str]] = []
    for image_id, row, mask in _decided(layer):
        is_right = mask is not None and mask.label == row["label"]
        if mask is not None and is_right:
            size_hw = row["height"], row["width"]
            shared, union = overlap([row["rle_counts"]], [mask.rle_counts], size_hw)
            is_right = shared >= min_iou * union
        rows.append((row[SCORE], is_right, row["label"], image_id))
    score, right, label, image = zip(*rows, strict=True) if rows else ((), (), (), ())
    # By rank, so that the folds are of equal size even with few images.
    shuffled = sorted(set(image), key=lambda image_id: zlib.crc32(image_id.encode()))
    fold = {image_id: place % _FOLDS for place, image_id in enumerate(shuffled)}
    return Reviewed(
        np.array(score, np.float64),
        np.array(right, bool),
        np.array(label),
        np.array([fold[image_id] for image_id in image], int),
    )


def _check_unknown(layer: ReviewedLayer, reviewed: Reviewed, max_unknown: float) -> None:
    """Refuse labels of which the review says too little, because its masks have other labels."""
    unknown = Counter(
        row["label"]
        for image_id in (*layer.images, *layer.partly_reviewed())
        if (open_ones := layer.unknown_segments(image_id))
        for row in layer.predicted(image_id)
        if row["segment_index"] in open_ones
    )
    decided = Counter(reviewed.label.tolist())
    refused = [
        f"{label!r} ({count} of {count + decided[label]})"
        for label, count in unknown.items()
        if count > max_unknown * (count + decided[label])
    ]
    if refused:
        raise UserError(
            "most reviewed segments of a label have become masks of labels that the run does not "
            f"have, or the file does not list the label: {', '.join(refused)}; import again with "
            "`--label THEIRS=OURS`, or decide on them on the review page (--set max_unknown=1: "
            "calibrate with what is known)"
        )


def _check(reviewed: Reviewed, num_images: int, rules: Rules) -> None:
    count, right = len(reviewed.score), int(reviewed.right.sum())
    if count < rules.min_segments:
        raise UserError(
            f"{count} segments of {num_images} images are reviewed, expected "
            f"{rules.min_segments} or more: review more images, with low and with high scores"
        )
    if not reviewed.fold.any():
        raise UserError(
            f"all {count} reviewed segments are of one image: expected two images or more; review "
            "more images"
        )
    if right in (0, count):
        raise UserError(
            f"all {count} reviewed segments are {'right' if right else 'wrong'}: expected some of "
            "each; review more images"
        )


def _fit(score: Numbers, right: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(score, right.astype(float))
    xs = np.asarray(model.X_thresholds_, np.float64)
    ys = np.asarray(model.y_thresholds_, np.float64)
    rounded, first = np.unique(xs.round(_DIGITS), return_index=True)
    return np.array(rounded, np.float64), ys[first]


def _held_out(reviewed: Reviewed) -> Numbers:
    """Return each score, calibrated with a fit to the other folds."""
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
    """Return the threshold with the best F1 of the right segments; 0: keep all segments.

    The threshold lies half way to the next lower score, so that rounding does not matter. Scores
    that differ in the last digits only (those of one step of the isotonic fit) count as one.

    Args:
        score: (N,) calibrated scores.
        right: (N,) whether the segment is right.
    """
    score = score.round(_DIGITS - 1)
    order = np.argsort(score, kind="stable")
    candidates, first = np.unique(score[order], return_index=True)
    true = right.sum() - np.append(0, np.cumsum(right[order]))[first]  # at or above it
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
    """Compare scores (N,), 0 to 1, with outcomes (N,)."""
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
