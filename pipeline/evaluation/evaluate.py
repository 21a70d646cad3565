"""`ovseg evaluate`: agreement of a run's masks with true label maps."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import NonNegativeInt, field_validator

from ovseg_core.images.decoding.exif import swaps_sides, upright_image
from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.evaluation.reference import Reference, clip_name, truth_reference
from pipeline.evaluation.report import (
    EvaluationReport,
    MeanIou,
    confused_pairs,
    label_reports,
    missing_labels,
    none_if_nan,
)
from pipeline.evaluation.reviewed_truth import REVIEWED, ReviewedTruth
from pipeline.evaluation.truth import (
    IGNORE,
    CocoTruth,
    Crowd,
    FolderTruth,
    LabelMap,
    TruthBackground,
)
from pipeline.importers.shared.notes import NoteKind, in_words
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from pipeline.run.tables.damaged import Damage
from schemas.base import Frozen
from schemas.errors import UserError
from schemas.protocol import Counting, MeanRule
from schemas.vocabulary import BACKGROUND

logger = logging.getLogger(__name__)

_CLEARLY = 0.1
"""By how much the share of right pixels must differ to tell one frame from another."""


class EvaluationRules(Frozen):
    """How a run is compared with the truth."""

    crowd: Crowd = "label"
    """COCO's crowd regions have their label, or are not counted."""
    truth_background: TruthBackground | None = None
    """What label images mean: 0 is background and labels count from 1 (`0`); or labels count from 0
    and 255 is background (`255`) or not counted (`none`); null: what `classes.json` says, or `0`.
    """
    groups: dict[str, tuple[str, ...]] = {}
    """Groups of labels, by name, whose mean IoU is reported too."""
    mean: MeanRule | None = None
    """Classes whose IoU is averaged: `occurring` in truth or prediction, `in_truth` only, or `all`,
    where one that does not occur counts as 0; null: the protocol's rule, or `occurring`."""
    min_foreground_px: NonNegativeInt | None = None
    """Images whose truth has fewer pixels of labels are left out; null: the protocol's number,
    else 0."""

    @field_validator("truth_background", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    def counting(self, given: Counting) -> Counting:
        """Return a protocol's counting with the changes of these rules."""
        ours = {"mean": self.mean, "min_foreground_px": self.min_foreground_px}
        changes = {key: value for key, value in ours.items() if value is not None}
        return given.model_copy(update=changes)


@dataclass(frozen=True)
class Evaluation:
    """A report and its confusion matrix.

    Attributes:
        report: the numbers.
        names: of the rows and columns of `counts`.
        counts: (K, K) pixels; row: truth, column: prediction.
    """

    report: EvaluationReport
    names: tuple[str, ...]
    counts: NDArray[np.int64]


def evaluate(
    run: RunFolder, truth_uri: str, rules: EvaluationRules | None = None
) -> EvaluationReport:
    """Compare the finished images of a run with a truth.

    Args:
        run: the run.
        truth_uri: COCO `instances.json`, matched by `file_name` and category names, or a folder
            of label images, see `pipeline.evaluation.truth`.
        rules: how to compare.

    Raises:
        UserError: no usable truth, or no image in common.
    """
    rules = rules or EvaluationRules()
    reference = truth_reference(run, truth_uri, rules.crowd, rules.truth_background)
    return evaluate_against(run, reference, rules).report


def evaluate_against(run: RunFolder, reference: Reference, rules: EvaluationRules) -> Evaluation:
    """Compare the finished images of a run with a reference.

    Raises:
        UserError: a truth that does not fit, or no image in common.
    """
    grouped_labels = {label for group in rules.groups.values() for label in group}
    unknown = grouped_labels - set(reference.names)
    if unknown:
        raise UserError(
            f"groups name labels that the run does not have: {', '.join(sorted(unknown))}"
        )
    reader = RunReader(run)
    counting = rules.counting(reference.counting)
    compared = _compare(reader, reference, counting.min_foreground_px)
    if not compared.num_images:
        raise UserError(
            f"nothing to compare: of {reader.num_images} annotated images "
            f"{compared.num_without_truth} are not among the truth's {reference.truth.num_images} "
            f"(matched by path) and {compared.num_wrong_size} have another size"
            f"{in_words(reference.truth.notes)}"
        )
    names, matrix = (BACKGROUND, *reference.names), compared.matrix
    first = 0 if reference.has_background else 1
    mean_iou, job = MeanIou(matrix, counting.mean), run.info.job()
    report = EvaluationReport(
        truth=reference.source,
        protocol=reference.protocol,
        method=job.method.name,
        backbone=clip_name(job.clip),
        weights=run.info.weights,
        labels=label_reports(matrix, names)[first:],
        mean=counting.mean,
        miou=mean_iou.of(range(first, len(names))),
        label_miou=mean_iou.of(range(1, len(names))),
        pixel_accuracy=none_if_nan(matrix.pixel_accuracy()),
        foreground_iou=None if first else none_if_nan(matrix.foreground_iou()),
        published=reference.published,
        differences=reference.differences,
        confusions=confused_pairs(matrix, names),
        groups={
            group: mean_iou.of([names.index(name, 1) for name in members])
            for group, members in rules.groups.items()
        },
        num_images=compared.num_images,
        num_without_truth=compared.num_without_truth,
        num_wrong_size=compared.num_wrong_size,
        num_left_out=compared.num_left_out,
        num_expected=reference.num_images,
        num_failed=sum(reader.errors.values()),
        num_left=reader.num_left,
        unknown_categories=reference.truth.unknown,
        missing_labels=labels_without_truth(reference),
        truth_values=reference.truth.values,
        damaged=damage_of(reference, reader),
        notes=reference.truth.notes.report(),
    )
    return Evaluation(report, names, matrix.counts)


def damage_of(reference: Reference, reader: RunReader) -> dict[str, Damage]:
    """Return what was left out; the run was read whole, for its review perhaps in part."""
    truth = reference.truth
    of_review = truth.left_out() if isinstance(truth, ReviewedTruth) else {}
    return {**of_review, **reader.left_out()}


@dataclass
class _Compared:
    matrix: ConfusionMatrix
    num_images: int = 0
    num_without_truth: int = 0
    num_wrong_size: int = 0
    num_left_out: int = 0


class _Frames:
    """The truth of images with an EXIF orientation, which the truth's tool may have ignored.

    One tool does the same to all images. Where a map has its image's size either way, the frame
    that fits the run clearly better counts, over all images together.

    Args:
        num_classes: of the confusion matrix.
    """

    def __init__(self, num_classes: int) -> None:
        self._told, self._upright, self._turned = (
            ConfusionMatrix(num_classes, IGNORE) for _ in range(3)
        )
        self._untold_paths: list[str] = []
        self._turned_paths: list[str] = []
        self._num_upright = 0

    def add(self, path: str, predicted: Any, true_map: LabelMap, turned: LabelMap) -> None:
        """Count one image; one of the maps or both have the size of the prediction."""
        if true_map.shape == turned.shape:
            self._upright.add(predicted, true_map)
            self._turned.add(predicted, turned)
            self._untold_paths.append(path)
        elif true_map.shape == predicted.shape:
            self._told.add(predicted, true_map)
            self._num_upright += 1
        else:
            self._told.add(predicted, turned)
            self._turned_paths.append(path)

    def result(self) -> tuple[ConfusionMatrix, list[str]]:
        """Return the pixels of all images, and the paths of those whose map was turned."""
        if bool(self._num_upright) != bool(self._turned_paths):
            is_turned = bool(self._turned_paths)
        else:
            is_turned = _share_right(self._turned) >= _share_right(self._upright) + _CLEARLY
        self._told += self._turned if is_turned else self._upright
        return self._told, self._turned_paths + (self._untold_paths if is_turned else [])


def _share_right(matrix: ConfusionMatrix) -> float:
    """Return the share of right pixels among those with a label in truth or prediction."""
    labelled = matrix.counts.sum() - matrix.counts[0, 0]
    return float(np.trace(matrix.counts[1:, 1:]) / max(labelled, 1))


def labels_without_truth(reference: Reference) -> dict[str, tuple[str, ...]]:
    """Return the labels that a user's own truth has no name for, see `missing_labels`."""
    truth = reference.truth
    if not isinstance(truth, CocoTruth | FolderTruth):
        return {}
    return missing_labels(reference.names, truth.covered, truth.unknown)


def _compare(reader: RunReader, reference: Reference, min_foreground_px: int) -> _Compared:
    num_classes = len(reference.names) + 1
    compared = _Compared(ConfusionMatrix(num_classes, IGNORE))
    frames = _Frames(num_classes)
    for shard in reader.shards():
        for image, predicted in shard.label_maps():
            true_map = reference.truth.label_map(image["path"])
            if true_map is None:
                compared.num_without_truth += 1
                continue
            turn = 1 if reference.source == REVIEWED else image["exif_orientation"]
            either_way = {true_map.shape, _turned_size(true_map.shape, turn)}
            if predicted.shape not in either_way:  # before it is turned: it may be of any size
                compared.num_wrong_size += 1
                logger.warning(
                    "%s left out: %s in the truth, %s in the run",
                    image["path"], _size(true_map.shape), _size(predicted.shape),
                )  # fmt: skip
            elif np.count_nonzero(true_map > 0) < min_foreground_px:
                compared.num_left_out += 1
            else:
                compared.num_images += 1
                if turn == 1:
                    compared.matrix.add(predicted, true_map)
                else:
                    turned = _turned(true_map, turn)
                    frames.add(image["path"], predicted, true_map, turned)
    with_orientation, turned_paths = frames.result()
    compared.matrix += with_orientation
    for path in turned_paths:
        reference.truth.notes.add(
            NoteKind.FRAMES, f"{path}: the truth ignores its EXIF orientation, which was applied"
        )
    return compared


def _turned_size(size_hw: tuple[int, ...], orientation: int) -> tuple[int, ...]:
    return size_hw[::-1] if swaps_sides(orientation) else size_hw


def _turned(true_map: LabelMap, orientation: int) -> LabelMap:
    return np.asarray(upright_image(Image.fromarray(true_map.astype(np.int32)), orientation))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
