"""How well the masks of a run agree with true ones; what was predicted is not changed."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from pipeline.evaluation import reference as yardsticks
from pipeline.evaluation import truth as truths
from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.evaluation.reference import Reference
from pipeline.evaluation.report import EvaluationReport, Mean, confusions, labels, number
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from schemas.base import Frozen
from schemas.errors import UserError
from schemas.protocol import Counting, MeanRule

logger = logging.getLogger(__name__)

BACKGROUND = "background"


class Rules(Frozen):
    """How to compare."""

    crowd: truths.Crowd = "label"
    """COCO's crowd regions carry their label, or are not counted."""
    groups: dict[str, tuple[str, ...]] = {}
    """Names for sets of labels whose mean IoU is wanted."""
    mean: MeanRule | None = None
    """Whose IoU is averaged: classes `occurring` in truth or prediction, `in_truth` only, or `all`,
    where one that does not occur counts 0; null: the protocol's rule, else `occurring`."""
    min_foreground_px: NonNegativeInt | None = None
    """Images whose truth has fewer pixels of labels are left out; null: the protocol's rule, else
    none is."""

    def counting(self, given: Counting) -> Counting:
        """Return the protocol's way of counting with what these rules change."""
        ours = {"mean": self.mean, "min_foreground_px": self.min_foreground_px}
        changes = {key: value for key, value in ours.items() if value is not None}
        return given.model_copy(update=changes)


@dataclass(frozen=True)
class Evaluation:
    """A report and what it was made from.

    Attributes:
        report: the numbers.
        names: of the rows and columns of `counts`.
        counts: (K, K) pixels; row: truth, column: prediction.
    """

    report: EvaluationReport
    names: tuple[str, ...]
    counts: NDArray[np.int64]


def evaluate(run: RunFolder, truth_uri: str, rules: Rules | None = None) -> EvaluationReport:
    """Compare the finished images of a run with a truth.

    Args:
        run: the run.
        truth_uri: COCO `instances.json`, matched by `file_name` and category names, or a folder
            of label images, see `pipeline.evaluation.truth`.
        rules: how to compare.

    Raises:
        UserError: no usable truth, or no image in common.
    """
    rules = rules or Rules()
    return measure(run, yardsticks.of_truth(run, truth_uri, rules.crowd), rules).report


def measure(run: RunFolder, yardstick: Reference, rules: Rules) -> Evaluation:
    """Compare the finished images of a run with a yardstick.

    Raises:
        UserError: a truth that does not fit, or no image in common.
    """
    unknown = {label for group in rules.groups.values() for label in group} - set(yardstick.names)
    if unknown:
        raise UserError(f"groups name labels that are not there: {', '.join(sorted(unknown))}")
    finished = RunReader(run)
    counting = rules.counting(yardstick.counting)
    compared = _compare(finished, yardstick, counting.min_foreground_px)
    if not compared.num_images:
        raise UserError(
            f"nothing to compare: of {finished.num_images} annotated images "
            f"{compared.num_without_truth} are not among the truth's {yardstick.truth.num_images} "
            f"(matched by path) and {compared.num_wrong_size} have another size"
        )
    names, matrix = (BACKGROUND, *yardstick.names), compared.matrix
    first = 0 if yardstick.has_background else 1
    mean = Mean(matrix, counting.mean)
    info = run.info
    report = EvaluationReport(
        truth=yardstick.source,
        protocol=yardstick.protocol,
        method=info.job().method.name,
        backbone=yardsticks.clip_name(info.job().clip),
        weights=info.weights,
        labels=labels(matrix, names)[first:],
        mean=counting.mean,
        miou=mean.of(range(first, len(names))),
        label_miou=mean.of(range(1, len(names))),
        pixel_accuracy=number(matrix.pixel_accuracy()),
        foreground_iou=None if first else number(matrix.foreground_iou()),
        published=yardstick.published,
        differences=yardstick.differences,
        confusions=confusions(matrix, names),
        groups={
            group: mean.of([names.index(name, 1) for name in members])
            for group, members in rules.groups.items()
        },
        num_images=compared.num_images,
        num_without_truth=compared.num_without_truth,
        num_wrong_size=compared.num_wrong_size,
        num_left_out=compared.num_left_out,
        num_expected=yardstick.num_images,
        num_failed=sum(finished.errors.values()),
        num_left=finished.num_left,
        unknown_categories=yardstick.truth.unknown,
    )
    return Evaluation(report, names, matrix.counts)


@dataclass
class _Compared:
    """Running counts."""

    matrix: ConfusionMatrix
    num_images: int = 0
    num_without_truth: int = 0
    num_wrong_size: int = 0
    num_left_out: int = 0


def _compare(finished: RunReader, yardstick: Reference, min_foreground_px: int) -> _Compared:
    compared = _Compared(ConfusionMatrix(len(yardstick.names) + 1, truths.IGNORE))
    for shard in finished.shards(("path", "height", "width")):
        for image, predicted in shard.label_maps():
            true_map = yardstick.truth.label_map(image["path"])
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
            elif np.count_nonzero(true_map > 0) < min_foreground_px:
                compared.num_left_out += 1
            else:
                compared.num_images += 1
                compared.matrix.add(predicted, true_map)
    return compared


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
