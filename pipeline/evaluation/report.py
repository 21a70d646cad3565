"""The report of an evaluation: what follows from its confusion matrix."""

import difflib
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.evaluation.reference import PublishedScores
from pipeline.importers.shared.notes import Note, NoteKind
from pipeline.run.tables.damaged import Damage
from schemas.base import Frozen
from schemas.protocol import MeanRule

_MAX_CONFUSED_PAIRS = 20
_MAX_MEANT = 3
_SAME_THING = (
    ("sofa", "couch"),
    ("tv", "television", "tv monitor", "tvmonitor", "monitor"),
    ("airplane", "aeroplane", "plane"),
    ("motorcycle", "motorbike"),
    ("bicycle", "bike"),
    ("car", "automobile"),
    ("person", "people", "human", "pedestrian"),
    ("cell phone", "mobile phone", "smartphone"),
    ("rug", "carpet"),
    ("trash can", "garbage can", "waste bin"),
)
"""Names by which data sets call the same thing."""


class LabelReport(Frozen):
    """The numbers of one class."""

    name: str
    iou: float | None
    """Intersection over union over the whole set; None: in neither truth nor prediction."""
    truth_px: int
    predicted_px: int


class ConfusedPair(Frozen):
    """Pixels of one class that were predicted as another."""

    truth: str
    predicted: str
    pixels: int
    share: float
    """Of the true class's pixels."""


class EvaluationReport(Frozen):
    """Agreement of a run with a truth; a mean over no class is None."""

    truth: str
    protocol: str
    """Its name; empty: no protocol."""
    method: str
    backbone: str
    """The CLIP of the run."""
    weights: dict[str, str]
    """SHA-256 of the run's weights."""
    labels: tuple[LabelReport, ...]
    """Background first, where it is a class, then the vocabulary."""
    mean: MeanRule
    """Whose IoU is averaged."""
    miou: float | None
    """Mean IoU over labels, and background where it is a class."""
    label_miou: float | None
    """The same without background."""
    pixel_accuracy: float | None
    foreground_iou: float | None
    """IoU of all labels taken as one class; None: background is not a class."""
    published: PublishedScores | None
    """Published scores under the protocol; None: no protocol."""
    differences: tuple[str, ...]
    """Differences from the published setting."""
    confusions: tuple[ConfusedPair, ...]
    """The pairs with the most wrong pixels, most first."""
    groups: dict[str, float | None]
    """Mean IoU of each group of labels."""
    num_images: int
    """Images that were compared."""
    num_without_truth: int
    """Annotated images without truth."""
    num_wrong_size: int
    """Images left out because the truth has another size."""
    num_left_out: int
    """Images left out because the truth has too few pixels of labels
    (`Counting.min_foreground_px`)."""
    num_expected: int | None
    """Images of the protocol; None: no protocol."""
    num_failed: int
    """Images of the run that failed; not compared."""
    num_left: int
    """Images of the run that are not annotated yet."""
    unknown_categories: tuple[str, ...]
    """Categories of the truth that the vocabulary lacks; they count as background."""
    missing_labels: dict[str, tuple[str, ...]]
    """Labels of the run that the truth has no name for, each with those of the unknown categories
    that may be the same."""
    truth_values: str
    """What values of label images were taken for; empty: the truth is no such folder."""
    damaged: dict[str, Damage]
    """What of the run and its review was left out, as no ovseg wrote it, by what it is."""
    notes: dict[NoteKind, Note]
    """What of the truth was left out or read in another way, with the first ten of each kind."""


@dataclass(frozen=True)
class MeanIou:
    """Mean IoU under a rule."""

    matrix: ConfusionMatrix
    rule: MeanRule

    def of(self, classes: Sequence[int]) -> float | None:
        """Return the mean over some classes; None if none of them counts."""
        ious = self.matrix.iou()[list(classes)]
        if self.rule == "all":
            ious = np.nan_to_num(ious)
        elif self.rule == "in_truth":
            ious = ious[self.matrix.counts.sum(axis=1)[list(classes)] > 0]
        ious = ious[~np.isnan(ious)]
        return float(ious.mean()) if len(ious) else None


def confused_pairs(matrix: ConfusionMatrix, names: Sequence[str]) -> tuple[ConfusedPair, ...]:
    """Return the pairs of classes with the most wrong pixels.

    Args:
        matrix: of the run.
        names: of all classes, background first.
    """
    wrong = matrix.counts * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSED_PAIRS]
    pairs = [
        (int(row), int(column)) for row, column in zip(*np.divmod(order, len(names)), strict=True)
    ]
    totals = matrix.counts.sum(axis=1)
    return tuple(
        ConfusedPair(
            truth=names[row],
            predicted=names[column],
            pixels=int(wrong[row, column]),
            share=float(wrong[row, column] / totals[row]),
        )
        for row, column in pairs
        if wrong[row, column]
    )


def missing_labels(
    names: Sequence[str], covered: Container[int], unknown: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the labels that a truth has no name for, each with names that may mean it.

    Args:
        names: of the run's labels, in order.
        covered: the labels, counted from 1, that the truth has a name for.
        unknown: the truth's other names.
    """
    plain = {name.casefold(): name for name in unknown}
    missing: dict[str, tuple[str, ...]] = {}
    for number, name in enumerate(names, start=1):
        if number in covered:
            continue
        ours = name.casefold()
        alike = [theirs for group in _SAME_THING if ours in group for theirs in group]
        alike += [theirs for theirs in plain if set(theirs.split()) & set(ours.split())]
        alike += difflib.get_close_matches(ours, list(plain), _MAX_MEANT, 0.7)
        meant = [plain[theirs] for theirs in dict.fromkeys(alike) if theirs in plain]
        missing[name] = tuple(meant[:_MAX_MEANT])
    return missing


def label_reports(matrix: ConfusionMatrix, names: Sequence[str]) -> tuple[LabelReport, ...]:
    """Return the numbers of every class; `names` are those of all classes, background first."""
    ious, truth_px, predicted_px = matrix.iou(), matrix.counts.sum(1), matrix.counts.sum(0)
    return tuple(
        LabelReport(
            name=name,
            iou=none_if_nan(ious[index]),
            truth_px=int(truth_px[index]),
            predicted_px=int(predicted_px[index]),
        )
        for index, name in enumerate(names)
    )


def none_if_nan(value: float | np.floating) -> float | None:
    """Return a number, or None for NaN."""
    return None if math.isnan(value) else float(value)
