"""Workers of Ray Train that share a batch: as one worker alone, to rounding; deaths, divergence.

Workers take longer to start than all else here, so that each test starts as few as it can.
"""

import logging
import threading
import time
from pathlib import Path

import psutil
import pytest

from schemas.errors import ResourceError, TrainingError
from tests.helpers.ray_cluster import ray_cluster
from tests.helpers.student_trainings import colour_run, losses, student_config, train

__all__ = ["ray_cluster"]

STEPS = 24
LONG = {"options": {"steps": STEPS}, "validate_every": STEPS, "checkpoint_every": 2}
pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray's own
    pytest.mark.timeout(600),  # workers take long to start on a busy machine
]


def test_two_workers_learn_what_one_learns_with_the_whole_batch_though_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    run = colour_run(tmp_path)
    (tmp_path / "photos" / "3.png").unlink()
    # A relative path: new workers must find the checkpoint where the first ones wrote it.
    config = student_config(run, "two", run={"local": False, "workers": 2}, **LONG)
    killer = threading.Thread(target=_kill_at_checkpoint, args=(tmp_path / "two",))
    killer.start()
    with caplog.at_level(logging.WARNING, "pipeline.training.students.ray_workers"):
        report = train(config)
    killer.join()
    assert "a new group resumes from the checkpoint" in caplog.text
    assert (report.exit_code, report.new_steps) == (3, STEPS)
    assert report.counts == {"learned": 4, "kept for validation": 2, "failed in the run": 1}
    assert set(report.failed) == {"not_found"}
    alone = train(student_config(run, "one", **LONG))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert report.miou == pytest.approx(alone.miou, abs=1e-2)
    assert train(student_config(run, "two", **LONG)).new_steps == 0


def _kill_at_checkpoint(out: Path) -> None:
    """Kill one of Ray Train's workers as soon as there is a checkpoint."""
    deadline = time.monotonic() + 300
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        if "TrainWorker" in " ".join(process.cmdline()):
            process.kill()
            return


def test_diverged_training_stops_in_one_line_and_its_checkpoint_stays(tmp_path: Path) -> None:
    run = colour_run(tmp_path)
    options = {"optimiser": "sgd", "learning_rate": 1e6, "min_learning_rate": 1e6}
    config = student_config(
        run,
        tmp_path / "a",
        options=options,
        checkpoint_every=1,
        run={"local": False, "workers": 1},
    )
    with pytest.raises(TrainingError, match=r"diverged; use a smaller learning rate") as caught:
        train(config)
    assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "a" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "a" / "student.safetensors").exists()


def test_more_workers_than_the_cluster_holds_are_refused(tmp_path: Path) -> None:
    config = student_config(
        colour_run(tmp_path),
        tmp_path / "a",
        run={"local": False, "workers": 4, "cpus_per_worker": 2},
    )
    with pytest.raises(
        ResourceError, match=r"run\.workers is 4, but the Ray cluster has room for 2"
    ):
        train(config)
