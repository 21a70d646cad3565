"""`ovseg review`, `import-review`, `calibrate`, `compare`: mistakes before anything is read."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("review", []),
        ("import-review", ["review.json", "--from", "coco"]),
        ("calibrate", []),
        ("compare", ["other"]),
    ],
)
def test_folder_that_is_not_a_run(tmp_path: Path, command: str, more: list[str]) -> None:
    result = ovseg(command, str(tmp_path / "nowhere"), *more)
    assert result.exit_code == 1
    assert "nowhere is not a run folder (run.yaml is missing): expected one" in result.stderr


def test_wrong_rule_of_a_calibration(tmp_path: Path) -> None:
    result = ovseg("calibrate", str(tmp_path), "--set", "min_iuo=0.5")
    assert result.exit_code == 1
    assert result.stderr == "error: min_iuo: unknown key; did you mean 'min_iou'?\n"
