"""`ovseg inspect` and `ovseg export`: mistakes before anything is read."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.mark.parametrize("command", ["inspect", "export", "evaluate"])
def test_folder_that_is_not_a_run(tmp_path: Path, command: str) -> None:
    truth = ["--truth", "t.json"] if command == "evaluate" else []
    result = ovseg(command, str(tmp_path / "nowhere"), *truth)
    assert result.exit_code == 1
    assert result.stderr.endswith("nowhere is not a run folder (run.yaml is missing)\n")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--to", "cocoo"], "error: no 'cocoo' among the exporters: Did you mean 'coco'?\n"),
        (["--to", "coco", "--set", "polygon=true"], "error: polygon: unknown key; did you mean "),
        (["--to", "yolo-seg", "--set", "polygons=true"], "error: polygons: unknown key; known "),
        (["--to", "coco", "--segments", "all"], "error: segments: expected 'as_run', 'class' or"),
    ],
)
def test_wrong_format_or_option(tmp_path: Path, args: list[str], expected: str) -> None:
    result = ovseg("export", str(tmp_path), *args)
    assert result.exit_code == 1
    assert result.stderr.startswith(expected)
