"""Credentials in a URL reach its server, and no file of the run and no terminal."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import ovseg_core
from jobs.cli import app
from jobs.demo.draw import draw_scenes

HEADS = Path(ovseg_core.__file__).parent / "embedded" / "found"
HEAD = next(HEADS.glob("*.safetensors")).name


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return `127.0.0.1:PORT` of a server of the embedded heads."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(QuietHandler, directory=str(HEADS))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


def annotate(head: str, *, labels: str = "cat,dog") -> Result:
    option = "method.options.objectness"
    settings = ["clip.model=embedded", f"{option}.name=found", f"{option}.options.head={head}"]
    command = ["annotate", "--images", "scenes", "--labels", labels, "--out", "run", "--local"]
    for setting in settings:
        command += ["--set", setting]
    return CliRunner().invoke(app, command)


def test_a_token_in_a_url_is_neither_stored_nor_shown(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()
    draw_scenes(tmp_path / "scenes", 2, seed=5)

    first = annotate(f"http://hf_SECRETTOKEN123@{server}/{HEAD}")
    assert first.exit_code == 0, first.output
    assert f"http://***@{server}/{HEAD}" in (tmp_path / "run/run.yaml").read_text()

    # Another token for the same file is the same run.
    again = annotate(f"http://hf_SECRETTOKEN456@{server}/{HEAD}")
    assert again.exit_code == 0, again.output
    assert "nothing" in again.output

    other = annotate(f"http://hf_SECRETTOKEN456@{server}/{HEAD}?token=SECRETTOKEN", labels="cow")
    assert other.exit_code == 1
    gone = annotate(f"http://hf_SECRETTOKEN456@{server}/gone.safetensors")
    assert gone.exit_code == 1

    shown = "".join(result.output for result in (first, again, other, gone))
    assert "SECRETTOKEN" not in shown
    for file in (tmp_path / "run").rglob("*"):
        assert "SECRETTOKEN" not in file.name
        assert not file.is_file() or b"SECRETTOKEN" not in file.read_bytes()
