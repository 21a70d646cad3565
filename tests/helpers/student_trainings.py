"""Trainings of students that take a moment: a run of drawn scenes, a tiny network."""

from pathlib import Path
from typing import Any

from pipeline.run.folder import RunFolder
from pipeline.training.progress import StepProgress
from pipeline.training.students.job import StudentReport, train_student
from schemas.config import StudentConfig
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run

STEPS = 8


def colour_run(folder: Path, num_images: int = 6, **changes: Any) -> RunFolder:
    """A run whose labels are the colours of its photographs, which is easily learned."""
    scenes = [Scene(f"{number}.png", label_map(number)) for number in range(num_images)]
    return make_run(folder, [*scenes, Scene("failed.png", None)], RunSpec(**changes))


def student_config(source: RunFolder | str, out: Path | str, **changes: Any) -> StudentConfig:
    """Four views of 32 px a step, a checkpoint every second step; `options`, `run` are added to."""
    teacher = source if isinstance(source, str) else source.folder.uri
    options = {
        "steps": STEPS,
        "batch": 4,
        "size_px": 32,
        "backbone": "test_convnext",
        "backbone_weights": "random",
        "channels": 16,
        "optimiser": "adamw",
        "learning_rate": 3e-3,
        "scale": (0.8, 1.25),
    }
    place = {"local": True, "device": "cpu", "prefetch_threads": 2}
    return StudentConfig.model_validate(
        {
            "teacher": teacher,
            "out": str(out),
            "student": {
                "name": changes.pop("student", "maskclip_plus"),
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
