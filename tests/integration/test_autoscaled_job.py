"""A job on a cluster that has no machine for a worker until its autoscaler is asked for one."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ray_head import Head, ray_head
from tests.integration.test_submit import write_job

RAY = str(Path(sys.executable).with_name("ray"))
pytestmark = pytest.mark.timeout(400)  # a busy machine starts Ray slowly


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(num_cpus=0) as started:
        yield started


def command(job: Path) -> list[str]:
    return [sys.executable, "-m", "jobs", "annotate", str(job)]


def joining(head: Head) -> dict[str, str]:
    return head.env | {"RAY_ADDRESS": head.gcs}


def annotate(job: Path, head: Head) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(job), env=joining(head), capture_output=True, text=True, check=False
    )


def ray(head: Head, *args: str) -> str:
    done = subprocess.run([RAY, *args], env=head.env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_without_a_machine_it_is_said_how_to_wait(tmp_path: Path, head: Head) -> None:
    result = annotate(write_job(tmp_path), head)
    assert result.returncode == 1
    assert "no machine of the cluster has more than 0 CPUs" in result.stderr
    assert "run.wait_for_machine_s waits for a machine" in result.stderr


def test_a_machine_that_does_not_come_is_waited_for_no_longer(tmp_path: Path, head: Head) -> None:
    run = {"workers": 1, "device": "cpu", "cpus_per_worker": 64, "wait_for_machine_s": 3}
    began_s = time.monotonic()
    result = annotate(write_job(tmp_path, run=run), head)
    assert result.returncode == 1
    assert "run.cpus_per_worker is 64, but no machine of the cluster" in result.stderr
    assert time.monotonic() - began_s > 3


def test_a_machine_is_asked_for_and_used_when_it_comes(tmp_path: Path, head: Head) -> None:
    run = {"workers": 2, "device": "cpu", "wait_for_machine_s": 200}
    job = write_job(tmp_path, num_scenes=8, shard_size=2, run=run)
    process = subprocess.Popen(
        command(job), env=joining(head), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    asked = "request_resources:\n {'CPU': 1.0}: 1"
    while asked not in (said := ray(head, "status", "--address", head.gcs)):
        assert process.poll() is None, said
        time.sleep(0.5)
    assert not (tmp_path / "run").exists()
    start = [RAY, "start", "--block", "--num-cpus=1", f"--address={head.gcs}"]
    with subprocess.Popen(start, env=head.env, stdout=subprocess.DEVNULL) as machine:
        out, err = process.communicate(timeout=200)
        said = ray(head, "status", "--address", head.gcs)
        machine.terminate()
    assert process.returncode == 0, out + err
    assert "8 of 8 images done" in out
    assert "request_resources:\n (none)" in said
