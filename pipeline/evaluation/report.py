"""What comes of a comparison with a truth: a confusion matrix as numbers that a person reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.evaluation.reference import PublishedScores
from schemas.base import Frozen
from schemas.protocol import MeanRule

_SHOWN_CONFUSIONS = 20


class LabelReport(Frozen):
    """One class."""

    name: str
    iou: float | None
    """Intersection over union over the whole set; None: in neither truth nor prediction."""
    truth_px: int
    predicted_px: int


class Confusion(Frozen):
    """Pixels of one class that were taken for another."""

    truth: str
    predicted: str
    pixels: int
    share: float
    """Of the true class's pixels."""


class EvaluationReport(Frozen):
    """Agreement of a run with a truth; a mean is None where it is over nothing."""

    truth: str
    protocol: str
    """Its name; empty: a truth of the user's own."""
    method: str
    backbone: str
    """The CLIP that the run was made with."""
    weights: dict[str, str]
    """SHA-256 of the weights that the run was made with."""
    labels: tuple[LabelReport, ...]
    """Background first, where it is a class, then the vocabulary."""
    mean: MeanRule
    """Whose IoU is averaged."""
    miou: float | None
    """Mean IoU over background, where it is a class, and labels."""
    label_miou: float | None
    """The same without background."""
    pixel_accuracy: float | None
    foreground_iou: float | None
    """IoU of all labels taken as one; None: background is no class."""
    published: PublishedScores | None
    """What others report under the protocol."""
    differences: tuple[str, ...]
    """In what the run is not as published."""
    confusions: tuple[Confusion, ...]
    """Which class was most often taken for which, the most pixels first."""
    groups: dict[str, float | None]
    """Mean IoU of each group of labels."""
    num_images: int
    """Compared."""
    num_without_truth: int
    """Annotated images that the truth does not know."""
    num_wrong_size: int
    """Left out: the truth is of another size."""
    num_left_out: int
    """Left out: too few pixels of labels in the truth (`Counting.min_foreground_px`)."""
    num_expected: int | None
    """Images that the protocol compares; None: no protocol."""
    num_failed: int
    """Images of the run that failed; not compared."""
    num_left: int
    """Images of the run that are not annotated yet."""
    unknown_categories: tuple[str, ...]
    """Categories of the truth that the vocabulary lacks; they count as background."""


@dataclass(frozen=True)
class Mean:
    """Mean IoU under a rule."""

    matrix: ConfusionMatrix
    rule: MeanRule

    def of(self, classes: Sequence[int]) -> float | None:
        """Return the mean over some classes; None: over nothing."""
        ious = self.matrix.iou()[list(classes)]
        if self.rule == "all":
            ious = np.nan_to_num(ious)
        elif self.rule == "in_truth":
            ious = ious[self.matrix.counts.sum(axis=1)[list(classes)] > 0]
        ious = ious[~np.isnan(ious)]
        return float(ious.mean()) if len(ious) else None


def confusions(matrix: ConfusionMatrix, names: Sequence[str]) -> tuple[Confusion, ...]:
    """Return what was most often taken for what; `names` are those of all classes."""
    wrong = matrix.counts * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_SHOWN_CONFUSIONS]
    pairs = [
        (int(row), int(column)) for row, column in zip(*np.divmod(order, len(names)), strict=True)
    ]
    totals = matrix.counts.sum(axis=1)
    return tuple(
        Confusion(
            truth=names[row],
            predicted=names[column],
            pixels=int(wrong[row, column]),
            share=float(wrong[row, column] / totals[row]),
        )
        for row, column in pairs
        if wrong[row, column]
    )


def labels(matrix: ConfusionMatrix, names: Sequence[str]) -> tuple[LabelReport, ...]:
    """Return the numbers of every class; `names` are those of all classes."""
    ious, truth_px, predicted_px = matrix.iou(), matrix.counts.sum(1), matrix.counts.sum(0)
    return tuple(
        LabelReport(
            name=name,
            iou=number(ious[index]),
            truth_px=int(truth_px[index]),
            predicted_px=int(predicted_px[index]),
        )
        for index, name in enumerate(names)
    )


def number(value: float | np.floating) -> float | None:
    """Return a number; None in place of NaN."""
    return None if math.isnan(value) else float(value)
