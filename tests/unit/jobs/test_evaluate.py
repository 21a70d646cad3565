"""`ovseg evaluate`: mistakes before anything is compared."""

from pathlib import Path

from typer.testing import CliRunner, Result

from jobs.cli import app


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_wrong_rule_of_an_evaluation(tmp_path: Path) -> None:
    result = ovseg("evaluate", str(tmp_path), "--truth", "t.json", "--set", "crowds=ignore")
    assert result.exit_code == 1
    assert result.stderr == "error: crowds: unknown key; did you mean 'crowd'?\n"


def test_folder_that_is_not_a_run(tmp_path: Path) -> None:
    result = ovseg("evaluate", str(tmp_path / "nowhere"), "--truth", "t.json")
    assert result.exit_code == 1
    assert result.stderr.endswith("nowhere is not a run folder (run.yaml is missing)\n")
