"""`ovseg submit` before it reaches a cluster."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


GOOD = "images: in\nout: out\nlabels: [cat]\n"


@pytest.mark.parametrize(
    "text", [GOOD, "images: /in\nout: /out\nlabels: [cat]\nimage: {only: val.txt}\n"]
)
def test_submit_refuses_relative_paths(tmp_path: Path, text: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(text, encoding="utf-8")
    result = ovseg("submit", str(job), "--address", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "relative to this machine" in result.stderr
