"""`ovseg evaluate`: mistakes before anything is compared."""

from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from tests.helpers.drawn_runs import Scene, label_map, make_run


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


def test_convention_of_label_images_is_a_flag_and_is_told(tmp_path: Path) -> None:
    labels = label_map(0)
    run = make_run(tmp_path, [Scene("a.png", labels), Scene("b.png", labels)])
    (tmp_path / "truth").mkdir()
    values = np.where(labels, labels - 1, 255).astype(np.uint8)
    for name in ("a", "stranger"):
        Image.fromarray(values).save(tmp_path / "truth" / f"{name}.png")
    given = ("evaluate", run.folder.uri, "--truth", str(tmp_path / "truth"))
    shown = ovseg(*given, "--truth-background", "255").stdout
    assert "values of label images   labels count from 0, 255 is background" in shown
    assert "mIoU                     1.000" in shown
    assert "left out: not annotated in the run: 1\n  stranger.png" in shown
    result = ovseg(*given, "--truth-background", "7")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: truth_background: expected '0', '255' or 'none'")
