"""A student's training in mixed precision on the GPU: it learns, and resumes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.run.folder import RunFolder
from pipeline.training.students.job import train_student
from schemas.config import StudentConfig
from tests.helpers.student_trainings import StopsAt, colour_run, losses, student_config, train

STEPS = 40


def config_of(run: RunFolder, out: Path, student: str, precision: str) -> StudentConfig:
    return student_config(
        run,
        out,
        student=student,
        precision=precision,
        options={"steps": STEPS, "size_px": 64},
        ema_decay=0.9,
        validate_every=STEPS,
        checkpoint_every=10,
        run={"device": "cuda"},
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("student", ["maskclip_plus", "text_fusion"])
def test_training_in_mixed_precision_learns_and_resumes(
    precision: str, student: str, tmp_path: Path
) -> None:
    run = colour_run(tmp_path)
    assert train(config_of(run, tmp_path / "whole", student, precision)).exit_code == 0
    whole = losses(tmp_path / "whole")
    assert sum(whole[-5:]) < 0.8 * sum(whole[:5])
    assert train(config_of(run, tmp_path / "exact", student, "fp32")).exit_code == 0
    exact = losses(tmp_path / "exact")
    assert whole[0] != exact[0]  # it is not float32 that was computed
    assert whole[0] == pytest.approx(exact[0], rel=0.05)

    stopped = config_of(run, tmp_path / "stopped", student, precision)
    assert train_student(stopped, StopsAt(STEPS // 2)).interrupted
    checkpoint = load_file(tmp_path / "stopped" / "checkpoint.safetensors")
    assert ("loss_scale" in checkpoint) == (precision == "fp16")
    assert 0 < train(stopped).new_steps < STEPS
    resumed = losses(tmp_path / "stopped")
    assert len(resumed) == STEPS
    assert sum(resumed[-5:]) == pytest.approx(sum(whole[-5:]), rel=0.2)
    for value in load_file(tmp_path / "stopped" / "student.safetensors").values():
        assert value.dtype in (torch.float32, torch.int64)
        assert value.isfinite().all()
