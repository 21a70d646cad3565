"""How well the masks of a run agree with true ones; what was predicted is not changed."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovseg_core.metrics import ConfusionMatrix
from pipeline import truth as truths
from pipeline.finished import FinishedRun
from pipeline.rundir import RunDir
from schemas.base import Frozen
from schemas.errors import UserError

logger = logging.getLogger(__name__)

BACKGROUND = "background"


class LabelReport(Frozen):
    """One class."""

    name: str
    iou: float | None
    """Intersection over union over the whole set; None: in neither truth nor prediction."""
    truth_px: int
    predicted_px: int


class EvaluationReport(Frozen):
    """Agreement of a run with a truth; a mean is None where it is over nothing."""

    truth: str
    labels: tuple[LabelReport, ...]
    """Background first, then the vocabulary."""
    miou: float | None
    """Mean IoU over background and labels, absent ones left out (mmsegmentation's rule)."""
    label_miou: float | None
    """The same without background."""
    pixel_accuracy: float | None
    foreground_iou: float | None
    """IoU of all labels taken as one."""
    groups: dict[str, float | None]
    """Mean IoU of each group of labels."""
    num_images: int
    """Compared."""
    num_without_truth: int
    """Annotated images that the truth does not know."""
    num_wrong_size: int
    """Left out: the truth is of another size."""
    num_failed: int
    """Images of the run that failed; not compared."""
    num_left: int
    """Images of the run that are not annotated yet."""
    unknown_categories: tuple[str, ...]
    """Categories of the truth that the vocabulary lacks; they count as background."""


class Rules(Frozen):
    """How to compare."""

    crowd: truths.Crowd = "label"
    """COCO's crowd regions carry their label, or are not counted."""
    groups: dict[str, tuple[str, ...]] = {}
    """Names for sets of labels whose mean IoU is wanted."""


def evaluate(run: RunDir, truth_uri: str, rules: Rules | None = None) -> EvaluationReport:
    """Compare the finished images of a run with a truth.

    Args:
        run: the run.
        truth_uri: COCO `instances.json`, matched by `file_name` and category names, or a folder
            of label images, see `pipeline.truth`.
        rules: how to compare.

    Raises:
        UserError: no usable truth, or no image in common.
    """
    rules = rules or Rules()
    names = run.info.job().vocabulary.names
    unknown = sorted({label for group in rules.groups.values() for label in group} - set(names))
    if unknown:
        raise UserError(f"groups name labels that the run does not have: {', '.join(unknown)}")
    finished = FinishedRun(run)
    truth = truths.open_truth(truth_uri, names, rules.crowd)
    compared = _compare(finished, truth, len(names) + 1)
    matrix = compared.matrix
    if not compared.num_images:
        raise UserError(
            f"nothing to compare: of {finished.num_images} annotated images "
            f"{compared.num_without_truth} are not among the truth's {truth.num_images} "
            f"(matched by path) and {compared.num_wrong_size} have another size"
        )
    return EvaluationReport(
        truth=truth_uri,
        labels=_labels(matrix, names),
        miou=_number(matrix.mean_iou()),
        label_miou=_number(matrix.mean_iou(range(1, len(names) + 1))),
        pixel_accuracy=_number(matrix.pixel_accuracy()),
        foreground_iou=_number(matrix.foreground_iou()),
        groups={
            group: _number(matrix.mean_iou([names.index(name) + 1 for name in members]))
            for group, members in rules.groups.items()
        },
        num_images=compared.num_images,
        num_without_truth=compared.num_without_truth,
        num_wrong_size=compared.num_wrong_size,
        num_failed=sum(finished.errors.values()),
        num_left=finished.num_left,
        unknown_categories=truth.unknown,
    )


@dataclass
class _Compared:
    """Running counts."""

    matrix: ConfusionMatrix
    num_images: int = 0
    num_without_truth: int = 0
    num_wrong_size: int = 0


def _compare(finished: FinishedRun, truth: truths.Truth, num_classes: int) -> _Compared:
    compared = _Compared(ConfusionMatrix(num_classes, truths.IGNORE))
    for shard in finished.shards(("path", "height", "width")):
        for image, predicted in shard.label_maps():
            true_map = truth.label_map(image["path"])
            if true_map is None:
                compared.num_without_truth += 1
            elif true_map.shape != predicted.shape:
                compared.num_wrong_size += 1
                logger.warning(
                    "%s left out: %s in the truth, %s in the run (was its EXIF turn applied?)",
                    image["path"],
                    _size(true_map.shape),
                    _size(predicted.shape),
                )
            else:
                compared.num_images += 1
                compared.matrix.add(predicted, true_map)
    return compared


def _labels(matrix: ConfusionMatrix, names: Sequence[str]) -> tuple[LabelReport, ...]:
    ious, truth_px, predicted_px = matrix.iou(), matrix.counts.sum(1), matrix.counts.sum(0)
    return tuple(
        LabelReport(
            name=name,
            iou=_number(ious[index]),
            truth_px=int(truth_px[index]),
            predicted_px=int(predicted_px[index]),
        )
        for index, name in enumerate((BACKGROUND, *names))
    )


def _number(value: float | np.floating) -> float | None:
    return None if math.isnan(value) else float(value)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
