"""The call at a job's end: once for each end, within 5 s, never the run's fault, no secrets."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.job.monitoring import webhook
from pipeline.job.report import RunReport
from pipeline.run.folder import RunFolder
from schemas.config import ArrayTask, RunConfig
from schemas.errors import ConfigError, ExitCode, StorageError
from tests.helpers.drawn_runs import make_run, odd_scenes

SECRET = "T0KEN-in-the-path"


@dataclass
class Receiver:
    """An address that takes calls, at `url`."""

    url: str = ""
    answer: int = 200
    delay_s: float = 0.0
    calls: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(found.delay_s)
            found.calls.append(json.loads(body))
            found.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(found.answer)
            if found.answer == 302:
                self.send_header("Location", found.url)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}/services/{SECRET}"
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run", odd_scenes())


def report_of(run: RunFolder, **changes: Any) -> RunReport:
    whole = RunReport(
        run.folder.uri, num_images=4, max_error_share=0.5, num_done=4, num_segments=9,
        errors={"truncated": 1}, num_new=4, seconds=2.5, images_per_s=2.0,
    )  # fmt: skip
    return replace(whole, **changes)


def test_an_end_is_told_once_also_after_a_resume(run: RunFolder, receiver: Receiver) -> None:
    webhook.tell_end(receiver.url, report_of(run))
    webhook.tell_end(receiver.url, report_of(run, num_new=0, seconds=0.1))
    (call,) = receiver.calls
    assert (call["status"], call["exit_code"], call["run"]) == ("done", 0, run.folder.uri)
    assert call["errors"] == {"truncated": 1}
    assert (call["num_images"], call["num_done"], call["num_segments"]) == (4, 4, 9)
    assert call["text"].startswith(f"ovseg: {run.folder.uri}: done: 4 of 4 images done, 9 masks")
    assert receiver.headers[0]["content-type"] == "application/json"
    assert receiver.headers[0]["idempotency-key"] == call["id"]


def test_an_end_with_other_counts_is_another_one(run: RunFolder, receiver: Receiver) -> None:
    webhook.tell_end(receiver.url, report_of(run))
    webhook.tell_end(receiver.url, report_of(run, errors={}))
    webhook.tell_end(receiver.url, report_of(run, errors={"truncated": 3}))
    assert [call["status"] for call in receiver.calls] == ["done", "done", "incomplete"]
    assert len({call["id"] for call in receiver.calls}) == 3


def test_an_end_whose_call_failed_is_told_by_the_next_command(
    run: RunFolder, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = 503
    webhook.tell_end(receiver.url, report_of(run))
    assert "the webhook at 127.0.0.1 was not told of this end: it answered 503" in caplog.text
    receiver.answer = 204
    webhook.tell_end(receiver.url, report_of(run))
    webhook.tell_end(receiver.url, report_of(run))
    assert len(receiver.calls) == 2
    assert len({call["id"] for call in receiver.calls}) == 1


def test_two_commands_that_meet_one_end_tell_it_once(run: RunFolder, receiver: Receiver) -> None:
    receiver.delay_s = 0.3
    both = [
        threading.Thread(target=webhook.tell_end, args=(receiver.url, report_of(run)))
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(receiver.calls) == 1


def test_what_is_no_end_is_not_told(run: RunFolder, receiver: Receiver) -> None:
    webhook.tell_end(receiver.url, report_of(run, interrupted=True))
    webhook.tell_end(receiver.url, report_of(run, num_done=2, interrupted=True, terminated=True))
    whole = report_of(run, num_done=2)
    own = report_of(run, num_images=2, num_done=2, task=ArrayTask(1, 2), whole=whole)
    webhook.tell_end(receiver.url, own)
    webhook.tell_end("", report_of(run))
    assert not receiver.calls


def test_each_failure_is_told(run: RunFolder, receiver: Receiver) -> None:
    failed = report_of(run, num_done=2, failed_shards={1: "the disk is full"})
    webhook.tell_end(receiver.url, failed)
    webhook.tell_end(receiver.url, failed)
    error = StorageError("s3://k:hunter2@bucket/x does not answer")
    webhook.tell_failure(receiver.url, "s3://k:hunter2@bucket/run", error, 3.0)
    assert [call["status"] for call in receiver.calls] == ["failed"] * 3
    assert [call["failed_shards"] for call in receiver.calls] == [1, 1, 0]
    assert receiver.calls[2]["exit_code"] == ExitCode.OUTAGE
    assert "hunter2" not in json.dumps(receiver.calls)


def test_an_address_that_hangs_holds_nothing_up(
    run: RunFolder, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.delay_s = 6.0
    began_s = time.monotonic()
    webhook.tell_end(receiver.url, report_of(run))
    assert time.monotonic() - began_s < 5.8
    assert "was not told of this end: no answer within 5 s" in caplog.text


def test_redirects_are_not_followed(
    run: RunFolder, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = 302
    webhook.tell_end(receiver.url, report_of(run))
    assert len(receiver.calls) == 1
    assert "it answered 302" in caplog.text


def test_a_record_that_somebody_else_wrote_is_told_over(run: RunFolder, receiver: Receiver) -> None:
    webhook.tell_end(receiver.url, report_of(run))
    (record,) = Path(run.folder.uri, "webhook").iterdir()
    record.write_bytes(b"\xff{]")
    webhook.tell_end(receiver.url, report_of(run))
    assert len(receiver.calls) == 2


def test_user_and_password_are_sent_as_a_header(run: RunFolder, receiver: Receiver) -> None:
    webhook.tell_end(receiver.url.replace("//", "//me:p%40ss@"), report_of(run))
    assert receiver.headers[0]["authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "hooks.example.org/x", "http://", "https://host:99999/x", "http://a/b c",
     "file:///etc/passwd", "http://[::1/x"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_and_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"run\.webhook: expected an address such as") as found:
        webhook.webhook_url(RunConfig(webhook=url))
    assert url not in str(found.value)
    monkeypatch.setenv(webhook.WEBHOOK_ENV, url)
    with pytest.raises(ConfigError, match="OVSEG_WEBHOOK: expected an address such as"):
        webhook.webhook_url(RunConfig())


def annotate(tmp_path: Path, *args: str) -> Result:
    command = ["annotate", "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out"),
               "--labels", "red star,blue circle", "--local", "--set", "clip.model=embedded",
               *args]  # fmt: skip
    return CliRunner().invoke(app, command)


def test_a_command_tells_its_end_once_and_keeps_the_address_nowhere(
    tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "in").mkdir()
    for name, width in (("a", 40), ("b", 56)):
        pixels = np.full((48, width, 3), 90, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    first = annotate(tmp_path, "--webhook", receiver.url)
    assert first.exit_code == ExitCode.DONE
    assert annotate(tmp_path, "--webhook", receiver.url).exit_code == ExitCode.DONE
    assert [call["status"] for call in receiver.calls] == ["done"]
    assert "the webhook at 127.0.0.1 was told: done" in first.stderr
    files = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not any(SECRET.encode() in data for data in files)
    assert SECRET not in first.output


def test_a_command_that_cannot_begin_tells_its_failure(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(webhook.WEBHOOK_ENV, receiver.url)
    assert annotate(tmp_path).exit_code == ExitCode.USER_ERROR
    assert [(call["status"], call["exit_code"]) for call in receiver.calls] == [("failed", 1)]
    assert str(tmp_path / "in") in receiver.calls[0]["text"]
