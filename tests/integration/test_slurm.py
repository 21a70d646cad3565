"""`deploy/slurm/annotate.sbatch`, run as Slurm would run a task, beside a `scontrol` that notes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jobs.demo.draw import draw_scenes
from pipeline.run.folder import RunFolder

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "annotate.sbatch"
SCRIPTS = str(Path(sys.executable).parent)
NUM_SCENES = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job file with its images, and commands of a node on the PATH that `start` sets."""
    (tmp_path / "scenes").mkdir()
    drawn = draw_scenes(tmp_path / "scenes", NUM_SCENES, seed=3)
    job = {
        "images": str(tmp_path / "scenes"),
        "out": str(tmp_path / "run"),
        "labels": list(drawn.labels),
        "clip": {"model": "embedded"},
        "shard_size": 1,
        "run": {"device": "cpu"},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n', encoding="utf-8")
    scontrol.chmod(0o755)
    return tmp_path


def start(folder: Path, task: int, **variables: str) -> subprocess.Popen[bytes]:
    """Start the script as the batch step of a task."""
    of_task = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(task)}
    path = os.pathsep.join((str(folder / "bin"), SCRIPTS, os.environ["PATH"]))
    return subprocess.Popen(
        ["bash", str(SCRIPT), str(folder / "job.yaml")],
        env=os.environ | of_task | {"SLURM_CPUS_PER_TASK": "1", "PATH": path} | variables,
        cwd=folder,
        stdout=subprocess.PIPE,
    )


def requeued(folder: Path) -> str:
    log = folder / "scontrol.log"
    return log.read_text(encoding="utf-8") if log.exists() else ""


def test_options_of_slurm_stand_before_the_first_command() -> None:
    """Slurm ignores the others without a word."""
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    commands = [n for n, line in enumerate(lines) if line and not line.startswith("#")]
    options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(options) < min(commands)
    assert f"#SBATCH --array=1-{_tasks(lines)}" in lines


def _tasks(lines: list[str]) -> int:
    [line] = [line for line in lines if line.startswith("tasks=")]
    return int(line.removeprefix("tasks="))


def wait_for_ovseg(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while not (begun := psutil.Process(process.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert begun
    time.sleep(0.5)  # the script's next line awaits the signal
    return begun


def test_a_cancelled_task_is_not_queued_again(folder: Path) -> None:
    process = start(folder, 2)
    begun = wait_for_ovseg(process)
    for one in (process, *begun):  # Slurm sends it to all processes of the task
        one.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert requeued(folder) == ""


def test_a_task_whose_time_is_over_is_queued_again_and_goes_on(folder: Path) -> None:
    process = start(folder, 2)
    wait_for_ovseg(process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert requeued(folder) == "requeue 77_2\n"
    again = start(folder, 2, SLURM_RESTART_COUNT="1")
    shown, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert b"task 2 of 8: 2 of 2 images done" in shown
    assert b"8 images left to the other tasks" in shown
    assert list(RunFolder.open(str(folder / "run")).done()) == [1, 9]
    assert requeued(folder).count("\n") == 1


def test_a_mistake_does_not_queue_a_task_again(folder: Path) -> None:
    process = start(folder, 9)
    process.communicate(timeout=120)
    assert process.returncode == 1
    assert requeued(folder) == ""
