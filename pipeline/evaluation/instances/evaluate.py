"""`ovseg evaluate --instances`: agreement of a run's segments with true objects.

The run is read shard by shard and compared image by image. What grows with the collection are the
matches of the average precision (33 bytes a segment), and the truth, which is read whole as run
lengths.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.corrections.frames import Frame
from pipeline.evaluation.evaluate import damage_of, labels_without_truth
from pipeline.evaluation.instances.average_precision import AveragePrecision, mean_figures
from pipeline.evaluation.instances.image_pair import (
    FOUND_COLUMNS,
    FoundInstance,
    ImagePair,
    TrueInstance,
)
from pipeline.evaluation.instances.matching import matchings
from pipeline.evaluation.instances.panoptic_quality import PanopticQuality, mean_panoptic
from pipeline.evaluation.instances.presence import PresenceCounts
from pipeline.evaluation.instances.report import (
    AnswerCheck,
    InstanceLabelReport,
    InstanceReport,
    instance_figures,
)
from pipeline.evaluation.instances.true_instances import (
    ComparedImage,
    FramesOfTruth,
    TrueInstances,
)
from pipeline.evaluation.reference import Reference, clip_name
from pipeline.importers.shared.notes import in_words
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from pipeline.run.tables.answers import ANSWERS, Answers
from schemas.base import Frozen
from schemas.errors import UserError
from schemas.records import Share
from schemas.score_columns import ranking_score

logger = logging.getLogger(__name__)


class InstanceRules(Frozen):
    """How a run's segments are compared with true objects."""

    min_score: Share = 0.0
    """Segments with a lower score (mean probability of the label times the quality of the outline)
    are left out. SA-Co's own figures are with 0.5; 0: the run has already decided."""


@dataclass
class _Compared:
    """What was seen, and the figures as they grow."""

    num_labels: int
    min_score: float
    num_images: int = 0
    num_without_truth: int = 0
    num_wrong_size: int = 0
    num_low_score: int = 0
    num_not_compared: int = 0
    num_crowds: int = 0
    precision: AveragePrecision = field(init=False)
    panoptic: PanopticQuality = field(init=False)
    presence: PresenceCounts = field(init=False)
    answers: NDArray[np.int64] = field(init=False)
    answers_shown: NDArray[np.int64] = field(init=False)
    num_true: list[int] = field(init=False)
    num_found: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.precision = AveragePrecision(self.num_labels)
        self.panoptic = PanopticQuality(self.num_labels)
        self.presence = PresenceCounts(self.num_labels)
        self.answers, self.answers_shown = np.zeros((2, len(ANSWERS)), np.int64)
        self.num_true, self.num_found = ([0] * (self.num_labels + 1) for _ in range(2))

    def add(self, row: Row, truth: Sequence[TrueInstance], told: "_Told") -> None:
        """Count one image."""
        segments, asked = told.segments, told.asked
        known = [segment for segment in segments if segment["category_id"] in asked]
        scored = [
            FoundInstance(one["category_id"], one["rle_counts"], one["area_px"], ranking_score(one))
            for one in known
        ]
        found = [one for one in scored if one.score >= self.min_score]
        pair = ImagePair(row["number"], (row["height"], row["width"]), truth, found)
        self.precision.add(pair)
        matched = list(matchings(pair))
        self.panoptic.add(matched)
        self.presence.add(matched, asked)
        self._add_answers(told, {one.label for one in truth})
        self.num_images += 1
        self.num_not_compared += len(segments) - len(known)
        self.num_low_score += len(scored) - len(found)
        for one in found:
            self.num_found[one.label] += 1
        for one in truth:
            self.num_crowds += one.is_crowd
            self.num_true[one.label] += not one.is_crowd

    def _add_answers(self, told: "_Told", shown: set[int]) -> None:
        for counts, labels in ((self.answers, told.asked), (self.answers_shown, shown)):
            places = np.array(sorted(labels), np.int64) - 1
            counts += np.bincount(told.answers[places], minlength=len(ANSWERS))


@dataclass(frozen=True)
class _Told:
    """What the run says of an image, and of which labels the truth says something."""

    segments: Sequence[Row]
    answers: Answers
    asked: frozenset[int]


def evaluate_instances(
    run: RunFolder, reference: Reference, rules: InstanceRules | None = None
) -> InstanceReport:
    """Compare the segments of the finished images of a run with true objects.

    Args:
        run: the run.
        reference: with a COCO file or the run's review as its truth.
        rules: how to compare.

    Raises:
        UserError: a truth without objects, or no image in common.
    """
    rules = rules or InstanceRules()
    truth = TrueInstances(reference.truth, len(reference.names))
    reader = RunReader(run)
    compared = _Compared(len(reference.names), rules.min_score)
    _compare(reader, reference, truth, compared)
    if not compared.num_images:
        raise UserError(
            f"nothing to compare: of {reader.num_images} annotated images "
            f"{compared.num_without_truth} have no true masks (of {reference.truth.num_images} "
            f"images in the truth, matched by path) and {compared.num_wrong_size} have another "
            f"size{in_words(reference.truth.notes)}"
        )
    return _report(reader, reference, truth.covered, rules, compared)


def _compare(
    reader: RunReader, reference: Reference, truth: TrueInstances, compared: _Compared
) -> None:
    frames = FramesOfTruth(reference.truth)

    def add(image: ComparedImage, frame: Frame) -> None:
        row, asked = image.row, truth.asked(image.truth)
        objects = truth.objects(image.truth, frame, (row["height"], row["width"]))
        told = _Told(image.segments, image.answers, asked)
        compared.add(row, [one for one in objects if one.label in asked], told)

    for shard in reader.shards():
        segments = shard.segments_by_image(FOUND_COLUMNS)
        for answers, (image_id, row) in zip(shard.answers(), shard.images.items(), strict=True):
            image, found = truth.image(row), segments.get(image_id, ())
            if image is None:
                compared.num_without_truth += 1
            elif not image.frames:
                compared.num_wrong_size += 1
                stated = image.size_hw or (0, 0)
                logger.warning(
                    "%s left out: %d x %d in the truth, %d x %d in the run",
                    row["path"], *stated[::-1], row["width"], row["height"],
                )  # fmt: skip
            elif len(image.frames) == 1:
                add(ComparedImage(row, image, found, answers), frames.told(row, image))
            else:
                frames.keep(ComparedImage(row, image, found, answers))
    for untold, frame in frames.settled():
        add(untold, frame)


def _report(
    reader: RunReader,
    reference: Reference,
    covered: frozenset[int],
    rules: InstanceRules,
    compared: _Compared,
) -> InstanceReport:
    coco, panoptic = compared.precision.figures(), compared.panoptic.figures()
    presence, run = compared.presence.figures(), reader.run.info
    job = run.job()
    places = [label - 1 for label in sorted(covered)]
    return InstanceReport(
        truth=reference.source,
        method=job.method.name,
        backbone=clip_name(job.clip),
        weights=run.weights,
        segments=job.masks.segments,
        min_score=rules.min_score,
        labels=tuple(
            InstanceLabelReport(
                name=reference.names[place],
                figures=instance_figures(coco[place], panoptic[place], presence[place]),
                num_true=compared.num_true[place + 1],
                num_found=compared.num_found[place + 1],
            )
            for place in places
        ),
        all_labels=instance_figures(
            mean_figures([coco[place] for place in places]),
            mean_panoptic([panoptic[place] for place in places]),
            compared.presence.total(),
        ),
        num_images=compared.num_images,
        num_without_truth=compared.num_without_truth,
        num_wrong_size=compared.num_wrong_size,
        num_failed=sum(reader.errors.values()),
        num_left=reader.num_left,
        num_low_score=compared.num_low_score,
        num_not_compared=compared.num_not_compared,
        answers={
            answer: AnswerCheck(num=num, num_shown=shown)
            for answer, num, shown in zip(
                ANSWERS, compared.answers.tolist(), compared.answers_shown.tolist(), strict=True
            )
            if num
        },
        num_crowds=compared.num_crowds,
        unknown_categories=reference.truth.unknown,
        missing_labels=labels_without_truth(reference),
        damaged=damage_of(reference, reader),
        notes=reference.truth.notes.report(),
    )
