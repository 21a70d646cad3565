"""Trainings of students that take a moment: a run of drawn scenes, a tiny network."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.run.folder import RunFolder
from pipeline.training.progress import StepProgress
from pipeline.training.students.job import StudentReport, train_student
from schemas.config import StudentConfig
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run

STEPS = 8
_NETWORKS: dict[str, dict[str, Any]] = {
    "maskclip_plus": {"backbone": "test_convnext", "channels": 16, "optimiser": "adamw"},
    "text_fusion": {"backbone": "test_efficientnet_gn", "finest_px": 4, "width": 16, "heads": 2},
}


def colour_run(folder: Path, num_images: int = 6, **changes: Any) -> RunFolder:
    """A run whose labels are the colours of its photographs, which is easily learned."""
    scenes = [Scene(f"{number}.png", label_map(number)) for number in range(num_images)]
    return make_run(folder, [*scenes, Scene("failed.png", None)], RunSpec(**changes))


def student_config(source: RunFolder | str, out: Path | str, **changes: Any) -> StudentConfig:
    """Four views of 32 px a step, a checkpoint every second step; `options`, `run` are added to."""
    teacher = source if isinstance(source, str) else source.folder.uri
    student = changes.pop("student", "maskclip_plus")
    options = {
        **_NETWORKS[student],
        "steps": STEPS,
        "batch": 4,
        "size_px": 32,
        "backbone_weights": "random",
        "learning_rate": 3e-3,
        "scale": (0.8, 1.25),
    }
    place = {"local": True, "device": "cpu", "prefetch_threads": 2}
    return StudentConfig.model_validate(
        {
            "teacher": teacher,
            "out": str(out),
            "student": {
                "name": student,
                "options": options | changes.pop("options", {}),
            },
            "clip": {"model": "embedded"},
            "validation_share": 0.3,
            "validate_every": 4,
            "checkpoint_every": 2,
            "run": place | changes.pop("run", {}),
            **changes,
        }
    )


def train(config: StudentConfig) -> StudentReport:
    return train_student(config, StepProgress())


def losses(out: Path) -> list[float]:
    """The loss of each step of a training, from its metrics."""
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    return [row["loss"] for row in rows if row["loss"] is not None]


class StopsAt(StepProgress):
    """A person who presses Ctrl-C when so many steps are done."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def tick(self) -> None:
        if self.finished >= self._steps:
            raise KeyboardInterrupt
