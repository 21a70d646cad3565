"""The trainings that `benchmarks.students` measures, and what one of them takes and gives."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality import embedded_backbones
from benchmarks.students_world import SEEN, TrainingScene
from ovseg_core.backbones.text.text_encoder import templates_of
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import Segmenter, TextMatrix
from ovseg_core.training.students import (
    IGNORED,
    UNLABELLED,
    Labels,
    StudentOptions,
    StudentTask,
    TextShape,
    TrainingView,
    build_network,
    build_task,
    check_student,
)
from ovseg_core.training.students.shared.student_file import StudentRecord, student_bytes
from ovseg_core.training.students.shared.trainer import Averaging, StudentTrainer
from pipeline.training.students.sources.cleaning import Cleaning
from schemas.config import EMBEDDED, Calibration, CleaningConfig, ClipConfig, NamedOptions
from schemas.vocabulary import Vocabulary

Options = dict[str, Any]

VOCABULARY = Vocabulary.model_validate(SEEN)
SEEDS = 0, 1, 2
EMA_DECAY = 0.99
TEMPLATES = "t85"
"""The teacher's own."""

LIGHT: Options = {
    "backbone_weights": "random",
    "backbone": "test_resnet",
    "steps": 5000,
    "batch": 16,
    "max_side_px": 80,  # half of the scenes' size: four times as many of them in a second
    "size_px": 48,
    "scale": (0.6, 1.1),
    "distort": False,
}
MASKCLIP_PLUS: Options = {
    **LIGHT,
    "channels": 64,
    "loss_px": 4,
    "optimiser": "adamw",
    "learning_rate": 1e-2,
    "min_learning_rate": 1e-5,
    "weight_decay": 0.05,
}
"""Chosen on other scenes; colour is a part of the labels, so the views are not distorted."""
TEXT_FUSION: Options = {
    **LIGHT,
    "steps": 600,
    "batch": 8,
    "finest_px": 4,
    "width": 64,
    "heads": 4,
    "learning_rate": 3e-3,
}
SELF_TRAINING: Options = {"self_training_from": 0.5}
LABELLED = torch.arange(1 + len(SEEN)) % 2 == 1
"""Classes that people have labelled in the rows that are half labelled."""
NOT_CLEANED = CleaningConfig()
BY_THRESHOLDS = CleaningConfig(thresholds="fitted")


@dataclass(frozen=True)
class Row:
    """One training.

    Attributes:
        key: its name in the results.
        seeds: of its repetitions.
        options: of the student, beside those of `MASKCLIP_PLUS` or `TEXT_FUSION`.
        student: which.
        cleaning: of the teacher's masks; `thresholds` is "fitted" for the calibration.
        share: of the scenes, those with the lowest numbers.
        truth: the truth is learned in place of the teacher's masks.
        half_labelled: people have labelled every second label of the vocabulary wherever it is;
            all other pixels are the teacher's, or the student's own. Without cleaning.
    """

    key: str
    seeds: tuple[int, ...] = (0,)
    options: Options = field(default_factory=dict)
    student: str = "maskclip_plus"
    cleaning: CleaningConfig = NOT_CLEANED
    share: float = 1.0
    truth: bool = False
    half_labelled: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the student has a text head."""
        return self.student == "maskclip_plus" or self.options.get("head") == "text"

    def part(self) -> NamedOptions:
        """Return the student with all of its options."""
        base = MASKCLIP_PLUS if self.student == "maskclip_plus" else TEXT_FUSION
        return NamedOptions(name=self.student, options=base | self.options)


ROWS = (
    Row("student", SEEDS),
    Row("self-training", options=SELF_TRAINING),
    Row("half labelled", SEEDS, half_labelled=True),
    Row("half labelled, self-training", SEEDS, SELF_TRAINING, half_labelled=True),
    Row("thresholds", SEEDS, cleaning=BY_THRESHOLDS),
    Row("min_score", cleaning=CleaningConfig(min_score=0.5)),
    Row("edge_px", cleaning=CleaningConfig(edge_px=1)),
    Row("max_review_priority", cleaning=CleaningConfig(max_review_priority=0.9)),
    Row("thresholds, 30 %", cleaning=BY_THRESHOLDS, share=0.3),
    Row("thresholds, 10 %", cleaning=BY_THRESHOLDS, share=0.1),
    Row("truth", truth=True),
    Row("text_fusion", SEEDS, student="text_fusion", share=0.05, truth=True),
    Row("text_fusion, no text", SEEDS, {"text": False}, "text_fusion", share=0.05, truth=True),
)


class Learned(NamedTuple):
    """One scene as a training sees it: uint8 (3, H, W), and both maps (H, W)."""

    image: torch.Tensor
    labels: Labels
    teacher: Labels


def data_of(row: Row, scenes: Sequence[TrainingScene], calibration: Calibration) -> list[Learned]:
    """Return what a row learns."""
    used = scenes[: round(row.share * len(scenes))]
    if row.truth:
        return [Learned(scene.image, scene.truth, scene.truth) for scene in used]
    fitted = calibration if row.cleaning.thresholds else None
    cleaning = Cleaning(row.cleaning, fitted)
    found = []
    for scene in used:
        if scene.masks.review_priority <= row.cleaning.max_review_priority:
            size_hw = scene.truth.shape[0], scene.truth.shape[1]
            cleaned = cleaning.paint(scene.rows, size_hw).cleaned
            labels = np.full_like(cleaned, UNLABELLED)
            if row.half_labelled:
                is_labelled = LABELLED.numpy()[scene.truth]
                labels[is_labelled] = scene.truth[is_labelled]
                cleaned[LABELLED.numpy()[cleaned] & ~is_labelled] = IGNORED  # people contradict
            found.append(Learned(scene.image, labels, cleaned))
    return found


def trained(row: Row, seed: int, data: Sequence[Learned], text: TextMatrix) -> dict[str, Any]:
    """Train a student; returns its weights as `weights`, CPU seconds and loss."""
    torch.manual_seed(seed)
    part = row.part()
    options = check_student(part)
    network = build_network(part, TextShape(*text.rows_QD.shape))
    task = build_task(part, seed)
    known = LABELLED if row.half_labelled else None
    trainer = StudentTrainer(network, task, text, Averaging(EMA_DECAY), known_K=known)
    began, losses = time.process_time(), []
    for views in batches(task, options, data, seed):
        losses.append(trainer.advance(views))
    seconds = time.process_time() - began
    return {
        "weights": trainer.result(),
        "loss": round(float(np.mean(losses[-50:])), 3),
        "cpu_s": round(seconds, 1),
        "training_images_per_s": round(options.steps * options.batch / seconds, 1),
        "images": len(data),
    }


def batches(
    task: StudentTask, options: StudentOptions, data: Sequence[Learned], seed: int
) -> Iterator[list[TrainingView]]:
    """Yield the views of every step: all scenes in random order, again and again."""
    order: NDArray[np.int64] = np.zeros(0, np.int64)
    rng = np.random.default_rng([seed, 1])
    for step in range(options.steps):
        while len(order) < options.batch:
            order = np.concatenate([order, rng.permutation(len(data))])
        now, order = order[: options.batch], order[options.batch :]
        yield [
            task.view(*data[place], np.random.default_rng([seed, 2, step, number]))
            for number, place in enumerate(now.tolist())
        ]


def write_student(file: Path, row: Row, weights: dict[str, torch.Tensor], text: TextMatrix) -> None:
    """Write a trained student as `ovseg train-student` does."""
    record = StudentRecord(
        student=row.part(),
        vocabulary=VOCABULARY,
        clip=ClipConfig(model=EMBEDDED),
        templates=templates_of(TEMPLATES),
    )
    file.write_bytes(student_bytes(weights, text, record))


def student_at(file: Path) -> Segmenter[Any]:
    """Return a student as a method."""
    part = NamedOptions(name="student", options={"weights": str(file)})
    return build_segmenter(part, embedded_backbones())
