"""The review server as a process: killed while it writes, ended by signals, port in use."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run
from tests.helpers.review_server import Client

NUM_IMAGES = 40


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    scenes = [Scene(f"{n:02d}.png", label_map(n)) for n in range(NUM_IMAGES)]
    return make_run(tmp_path, scenes)


@contextmanager
def started(run: RunFolder) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    command = [sys.executable, "-m", "jobs", "review", run.folder.uri, "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("review at").strip()
            yield process, Client(url)
        finally:
            process.kill()


def test_killed_server_keeps_every_answered_decision(run):
    answered: list[str] = []

    def decide(client: Client, mine: range) -> None:
        for number in mine:
            try:
                status = client.decide(image_id=f"id-{number:02d}.png", action="accept").status
            except (OSError, HTTPException):  # it was killed meanwhile
                return
            if status == 200:
                answered.append(f"id-{number:02d}.png")

    for _ in range(2):  # the second server starts on what the first one left
        with started(run) as (process, client):
            begun = len(answered)
            threads = [
                threading.Thread(target=decide, args=(client, range(part, NUM_IMAGES, 4)))
                for part in range(4)
            ]
            for thread in threads:
                thread.start()
            give_up = time.monotonic() + 60
            while len(answered) < begun + 7 and time.monotonic() < give_up:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
        assert len(answered) >= begun + 7
        stored = {key.image_id for key in ReviewLog(run).current()}
        assert set(answered) <= stored


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_end_the_server_without_an_error(run, number, code):
    with started(run) as (process, client):
        assert client.decide(image_id="id-00.png", action="accept").status == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert {key.image_id for key in ReviewLog(run).current()} == {"id-00.png"}
    assert "every decision is in the run folder" in out
    assert err == ""


def test_ctrl_c_ends_the_server_while_words_are_embedded_for_minutes(tmp_path):
    words = {"templates": [f"picture {n} of a {{}}" for n in range(8000)]}
    job = {"method": "maskclip", "clip": {"model": "embedded"}}
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(2)]
    slow = make_run(tmp_path, scenes, RunSpec(words=words, job=job))
    wanted = {"source": "run", "id": "id-1.png", "method": "maskclip"}
    wanted["words"] = [f"word {n}" for n in range(64)]
    with started(slow) as (process, client):
        assert client.get("/api/try").json["method"]["reason"] == ""
        answers = []

        def ask() -> None:
            with suppress(OSError, HTTPException):
                answers.append(client.post("/api/try/segment", wanted))

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(3)
        assert asking.is_alive(), "64 words in 8000 sentences each take longer"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
        asking.join()
    assert process.returncode == 0
    assert not any(answer.status == 200 for answer in answers)
    assert "every decision is in the run folder" in out
    assert err == ""


def test_review_page_does_not_load_torch(run):
    """Torch takes seconds and a gigabyte; only the try page needs it."""
    with started(run) as (process, client):
        for path in ("/", "/static/review.js", "/api/run", "/photo?id=id-00.png"):
            assert client.request("GET", path).status == 200
        assert len(client.shown()) == NUM_IMAGES
        loaded = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
    assert "pyarrow" in loaded
    assert "torch" not in loaded


def test_busy_port_and_missing_run_are_one_line_errors(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = review(run.folder.uri, "--port", str(port))
    assert (busy.returncode, busy.stdout) == (1, "")
    assert busy.stderr.startswith(f"error: port {port} is in use")
    assert busy.stderr.count("\n") == 1
    none = review(str(tmp_path))
    assert none.returncode == 1
    assert "is not a run folder (run.yaml is missing): expected one" in none.stderr
    nowhere = review(run.folder.uri, "--host", "no-such-host.invalid", "--port", "0")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)


def review(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", "review", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
