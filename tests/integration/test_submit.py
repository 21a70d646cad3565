"""`ovseg submit` against a real Ray job server: the log comes here, the exit code too."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.demo.draw import draw_scenes
from tests.integration.ray_head import Head, ray_head

pytestmark = pytest.mark.timeout(400)  # 40 s on a quiet machine for all; a busy one starts slowly


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


def write_job(folder: Path, **fields: object) -> Path:
    scenes = folder / "scenes"
    scenes.mkdir()
    drawn = draw_scenes(scenes, 4, seed=2)
    job = {
        "images": str(scenes),
        "out": str(folder / "run"),
        "labels": list(drawn.labels),
        "clip": {"model": "embedded"},
        "run": {"workers": 1, "device": "cpu"},
        **fields,
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def command(job: Path, head: Head, *args: str) -> list[str]:
    return [sys.executable, "-m", "jobs", "submit", str(job), "--address", head.address, *args]


def submit(job: Path, head: Head, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(job, head, *args), env=head.env, capture_output=True, text=True, check=False
    )


def test_submit_returns_3_for_broken_images(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path)
    (tmp_path / "scenes" / "scene_002.png").write_bytes(b"")
    result = submit(job, head)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "4 of 4 images done" in result.stdout
    assert "empty_file 1" in result.stdout
    assert head.env["RAY_AUTH_TOKEN"] not in result.stdout + result.stderr
    assert (tmp_path / "run" / "done" / "00000.json").exists()


def test_submit_returns_1_for_a_job_that_cannot_begin(tmp_path: Path, head: Head) -> None:
    result = submit(write_job(tmp_path, images=str(tmp_path / "nothing")), head)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "error: " in result.stdout
    assert "Traceback" not in result.stdout


def test_ctrl_c_leaves_the_submitted_job_running(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path)
    with subprocess.Popen(
        command(job, head, "--set", "run.local=true"),
        env=head.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "Running entrypoint" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ray job logs --follow" in err
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "done" / "00000.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_missing_server_and_wrong_token_are_one_line_errors(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path)
    nowhere = submit(job, Head("http://127.0.0.1:9", head.env))
    assert nowhere.returncode == 1
    assert "no Ray job server answers" in nowhere.stderr
    assert len(nowhere.stderr.splitlines()) == 1
    wrong = submit(job, Head(head.address, {**head.env, "RAY_AUTH_TOKEN": "0" * 32}))
    assert wrong.returncode == 1
    assert len(wrong.stderr.splitlines()) == 1
