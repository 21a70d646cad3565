"""`ovseg status`, `logs`, `stop` and `submit --ship` against a real Ray job server."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cluster.upload import PACKAGES
from schemas.errors import ExitCode
from tests.integration.ray_head import Head, ray_head
from tests.integration.test_submit import command, start, submit, wait_for_shard, write_job

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(400)  # a busy machine starts Ray slowly


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


def ovseg(head: Head, *args: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with the address in the environment, as Ray's own commands take it."""
    return subprocess.run(
        [sys.executable, "-m", "jobs", *args],
        env=head.env | {"RAY_API_SERVER_ADDRESS": head.address},
        capture_output=True,
        text=True,
        check=False,
    )


def shown(head: Head, job_id: str) -> dict[str, object]:
    return json.loads(ovseg(head, "status", job_id, "--json").stdout)


def test_a_job_is_seen_stopped_cleanly_and_goes_on(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path, num_scenes=100, shard_size=1)
    with start(job, head, "--set", "run.local=true") as process:
        assert process.stderr is not None
        [job_id] = re.findall(r"ovseg-\w+", process.stderr.readline())
        wait_for_shard(tmp_path)
        running = ovseg(head, "status")
        log = ovseg(head, "logs", job_id)
        stopped = ovseg(head, "stop", job_id)
        process.communicate(timeout=60)
    assert process.returncode == ExitCode.TERMINATED
    [line] = [line for line in running.stdout.splitlines() if job_id in line]
    assert "running" in line
    assert str(tmp_path / "run") in line
    assert log.returncode == 0
    assert "/100 images" in log.stdout
    assert "job_manager.py" not in log.stdout
    assert stopped.returncode == 0, stopped.stderr
    assert f"job {job_id} has ended after" in stopped.stdout
    assert f"stay in {tmp_path / 'run'}; the same `ovseg submit` goes on" in stopped.stdout
    assert shown(head, job_id)["state"] == "stopped"
    assert "had ended before: stopped" in ovseg(head, "stop", job_id).stdout
    assert "SIGKILL" not in ovseg(head, "logs", job_id).stdout

    done = list((tmp_path / "run" / "done").iterdir())
    assert 0 < len(done) < 100
    assert submit(job, head, "--set", "run.local=true").returncode == 0
    assert len(list((tmp_path / "run" / "done").iterdir())) == 100
    [last, first] = json.loads(ovseg(head, "status", "--json").stdout)[:2]
    assert (last["state"], last["exit_code"], first["id"]) == ("succeeded", 0, job_id)
    told = ovseg(head, "status", last["id"]).stdout
    assert "succeeded: exit code 0, all done" in told
    assert f"inspect {tmp_path / 'run'}" in told


def test_a_log_is_followed_to_the_jobs_own_exit_code(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path, images=str(tmp_path / "nothing"))
    assert submit(job, head).returncode == 1
    [last, *_] = json.loads(ovseg(head, "status", "--json").stdout)
    followed = ovseg(head, "logs", "--follow", last["id"])
    assert followed.returncode == 1
    assert "error: " in followed.stdout
    assert followed.stderr == ""
    assert "a mistake to be corrected" in ovseg(head, "status", last["id"]).stdout


@pytest.mark.parametrize("args", [("status",), ("logs",), ("logs", "--follow"), ("stop",)])
def test_an_unknown_id_a_wrong_token_and_a_lost_head_are_one_line_each(
    args: tuple[str, ...], head: Head
) -> None:
    unknown = ovseg(head, *args, "ovseg-0")
    assert unknown.returncode == 1
    assert "it knows no job ovseg-0; `ovseg status --address http" in unknown.stderr
    wrong = ovseg(replace(head, env=head.env | {"RAY_AUTH_TOKEN": "0" * 32}), *args, "ovseg-0")
    assert wrong.returncode == 1
    assert "does not accept the token that was given" in wrong.stderr
    lost = ovseg(replace(head, address="http://127.0.0.1:9"), *args, "ovseg-0")
    assert lost.returncode == ExitCode.OUTAGE
    assert "no Ray job server answers" in lost.stderr
    for result in (unknown, wrong, lost):
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.stderr


def test_shipped_code_runs_in_driver_and_workers_and_only_where_asked(
    tmp_path: Path, head: Head
) -> None:
    changed = tmp_path / "changed"
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, changed / package, ignore=ignore)
    for module in ("jobs/annotate.py", "pipeline/job/worker.py"):
        mark = tmp_path / f"{Path(module).stem}.ran"
        with (changed / module).open("a") as file:
            file.write(f"\n__import__('pathlib').Path({str(mark)!r}).touch()\n")
    job = write_job(tmp_path, num_scenes=4, shard_size=2)
    for options in ([], ["--ship"]):
        assert not list(tmp_path.glob("*.ran"))
        result = subprocess.run(
            command(job, head, *options, f"--set=out={tmp_path / f'run{len(options)}'}"),
            cwd=changed,
            env=head.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "4 of 4 images done" in result.stdout
    assert sorted(path.name for path in tmp_path.glob("*.ran")) == ["annotate.ran", "worker.ran"]
    assert re.search(r"as it was sent \(code [0-9a-f]{8}\) on Python", result.stdout)


def test_a_finished_job_is_not_waited_for(tmp_path: Path, head: Head) -> None:
    assert submit(write_job(tmp_path), head, "--set", "run.local=true").returncode == 0
    [last, *_] = json.loads(ovseg(head, "status", "--json").stdout)
    began_s = time.monotonic()
    assert "had ended before: succeeded" in ovseg(head, "stop", last["id"]).stdout
    assert time.monotonic() - began_s < 30
