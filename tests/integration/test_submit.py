"""`ovseg submit` against a real Ray job server: the log comes here, the exit code too."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psutil
import pytest

from jobs.cluster.follow import PATIENCE_ENV
from jobs.demo.draw import draw_scenes
from schemas.errors import ExitCode
from tests.integration.ray_head import Head, ray_head

FOLLOW = re.compile(
    r"follow it again   ovseg logs --follow ovseg-\w+ --address http\S+\n"
    r"stop it           ovseg stop ovseg-\w+ --address http\S+\n"
)
pytestmark = pytest.mark.timeout(400)  # 40 s on a quiet machine for all; a busy one starts slowly


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


class Forward:
    """A port that is forwarded to the head's job server, as `kubectl port-forward` does it."""

    def __init__(self, head: Head) -> None:
        self._target = urlsplit(head.address)
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.head = replace(head, address=f"http://127.0.0.1:{self._listener.getsockname()[1]}")
        self.is_cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and accept none that lasts."""
        self.is_cut = True
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self.is_cut:
                client.close()
                continue
            server = socket.create_connection((self._target.hostname, self._target.port))
            self._open += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def write_job(folder: Path, num_scenes: int = 4, **fields: object) -> Path:
    scenes = folder / "scenes"
    scenes.mkdir()
    drawn = draw_scenes(scenes, num_scenes, seed=2)
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


def start(job: Path, head: Head, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(job, head, *args),
        env=head.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_shard(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "run" / "done" / "00000.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_submit_returns_3_for_broken_images(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path)
    (tmp_path / "scenes" / "scene_002.png").write_bytes(b"")
    without_http = replace(head, address=head.address.removeprefix("http://"))
    result = submit(job, without_http)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "4 of 4 images done" in result.stdout
    assert "empty_file 1" in result.stdout
    assert "Runtime env is setting up" not in result.stdout
    assert head.env["RAY_AUTH_TOKEN"] not in result.stdout + result.stderr
    assert re.fullmatch(r"job ovseg-\w+ runs at http://127\.0\.0\.1:\d+\n", result.stderr)
    assert (tmp_path / "run" / "done" / "00000.json").exists()


def test_a_forwarded_port_may_be_lost_for_a_while_and_the_token_lie_in_a_file(
    tmp_path: Path, head: Head
) -> None:
    token = head.env["RAY_AUTH_TOKEN"]
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(token)
    env = {name: value for name, value in head.env.items() if not name.startswith("RAY_AUTH")}
    forward = Forward(replace(head, env=env | {"HOME": str(tmp_path)}))
    job = write_job(tmp_path)
    with start(job, forward.head, "--set", "run.local=true") as process:
        assert process.stderr is not None
        assert "runs at" in process.stderr.readline()
        time.sleep(1)  # it follows the log
        forward.cut()
        assert "does not answer" in process.stderr.readline()
        forward.is_cut = False
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert "answers again" in err
    assert "Traceback" not in err
    lines = [line for line in out.splitlines() if line]
    assert sum("4 of 4 images done" in line for line in lines) == 1
    assert sum("Running entrypoint" in line for line in lines) == 1
    assert token not in out + err


def test_a_job_server_that_stays_away_is_exit_code_5_and_the_job_goes_on(
    tmp_path: Path, head: Head
) -> None:
    forward = Forward(replace(head, env=head.env | {PATIENCE_ENV: "1"}))
    job = write_job(tmp_path)
    with start(job, forward.head, "--set", "run.local=true") as process:
        assert process.stderr is not None
        assert "runs at" in process.stderr.readline()
        forward.cut()
        _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.DETACHED
    assert FOLLOW.search(err)
    assert "Traceback" not in err
    wait_for_shard(tmp_path)


def test_submit_returns_1_for_a_job_that_cannot_begin(tmp_path: Path, head: Head) -> None:
    result = submit(write_job(tmp_path, images=str(tmp_path / "nothing")), head)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "error: " in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_ctrl_c_and_sigterm_leave_the_submitted_job_running(
    number: int, code: int, tmp_path: Path, head: Head
) -> None:
    job = write_job(tmp_path)
    with start(job, head, "--set", "run.local=true") as process:
        assert process.stderr is not None
        assert "runs at" in process.stderr.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the job goes on" in err
    assert FOLLOW.search(err)
    assert "Traceback" not in err
    wait_for_shard(tmp_path)


@pytest.mark.parametrize(("is_stopped_by_ray", "code"), [(False, 130), (True, 143)])
def test_a_job_that_is_stopped_itself_is_not_to_be_followed_again(
    is_stopped_by_ray: bool, code: int, tmp_path: Path, head: Head
) -> None:
    job = write_job(tmp_path, num_scenes=60, shard_size=1)
    with start(job, head, "--set", "run.local=true") as process:
        assert process.stderr is not None
        [job_id] = re.findall(r"ovseg-\w+", process.stderr.readline())
        wait_for_shard(tmp_path)
        if is_stopped_by_ray:
            headers = {"Authorization": f"Bearer {head.env['RAY_AUTH_TOKEN']}"}
            stop = Request(f"{head.address}/api/jobs/{job_id}/stop", b"", headers, method="POST")
            urlopen(stop, timeout=30).close()
        else:
            children = psutil.Process(head.pid).children(recursive=True)
            [driver] = [one for one in children if one.cmdline()[-2:] == ["annotate", "job.yaml"]]
            driver.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert "the same command goes on from here" in out
    assert err == ""


def test_missing_server_and_wrong_token_are_one_line_errors(tmp_path: Path, head: Head) -> None:
    job = write_job(tmp_path)
    nowhere = submit(job, replace(head, address="http://127.0.0.1:9"))
    assert nowhere.returncode == ExitCode.OUTAGE
    assert "no Ray job server answers" in nowhere.stderr
    assert len(nowhere.stderr.splitlines()) == 1
    wrong = submit(job, replace(head, env={**head.env, "RAY_AUTH_TOKEN": "0" * 32}))
    assert wrong.returncode == 1
    assert len(wrong.stderr.splitlines()) == 1
    assert "Authentication failed" in wrong.stderr
    assert "does not accept the token that was given. Set RAY_AUTH_TOKEN" in wrong.stderr
    bare = {key: value for key, value in head.env.items() if not key.startswith("RAY_AUTH")}
    none = submit(job, replace(head, env=bare | {"HOME": str(tmp_path)}))
    assert none.returncode == 1
    assert "the cluster wants a token. Set RAY_AUTH_TOKEN" in none.stderr
    assert len(none.stderr.splitlines()) == 1
