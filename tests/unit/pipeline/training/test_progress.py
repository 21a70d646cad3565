"""Steps, loss and images left out, in lines and in a bar."""

import io
from pathlib import Path

from pipeline.training.heads.job import train_head
from pipeline.training.progress import (
    StepBar,
    StepLines,
    StepProgress,
    TrainingTally,
    make_step_progress,
)
from tests.helpers.head_trainings import STEPS, heads_config, write_images


def test_lines_count_steps(tmp_path: Path) -> None:
    stream = io.StringIO()
    lines = make_step_progress(stream)
    assert isinstance(lines, StepLines)
    images = write_images(tmp_path / "images")
    train_head(heads_config(images, tmp_path / "h.safetensors"), lines)
    first, *_, last = stream.getvalue().splitlines()
    assert first == f"0/{STEPS} steps"
    assert last.startswith(f"{STEPS}/{STEPS} steps")
    assert " steps/s" in last
    assert "loss " in last
    assert last.endswith("images left out: not_an_image 1")


def test_bar_shows_steps_and_loss() -> None:
    stream = io.StringIO()
    bar = StepBar(stream)
    bar.start(10, 4)
    bar.begin()
    bar.advance(TrainingTally(step=5, loss=0.25, failed={}))
    bar.close()
    assert "5/10" in stream.getvalue()
    assert "loss 0.2500" in stream.getvalue()
    assert StepProgress().details() == ""


def test_time_left_is_given_once_the_slow_first_steps_are_done() -> None:
    times = iter([0.0, 0.0, 10.0, 30.0])
    progress = StepProgress(lambda: next(times))
    progress.start(100, 40)
    progress.begin()
    progress.advance(TrainingTally(step=41, loss=0.5, failed={}))
    assert progress.headline() == "41/100 steps, 0.1 steps/s"
    progress.advance(TrainingTally(step=70, loss=0.5, failed={}))
    assert progress.headline() == "70/100 steps, 1 steps/s, 30 s left"


def test_steps_after_a_worker_died_can_be_fewer() -> None:
    progress = StepProgress()
    progress.start(10, 2)
    progress.advance(TrainingTally(step=8, loss=0.5, failed={}))
    progress.advance(TrainingTally(step=6, loss=None, failed={"not_found": 1}))
    assert progress.finished == 4
    assert progress.details() == "loss 0.5000; images left out: not_found 1"
