"""import-review, evaluate, calibrate and annotate with it, compare: as a user types them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from schemas.errors import ExitCode
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run

SCORES = (0.2, 0.4, 0.6, 0.9)


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run at ./run and a review of it at ./review.json: masks of low scores are gone."""
    monkeypatch.chdir(tmp_path)
    scenes = [Scene(f"{n:02d}.png", label_map(n % 5), SCORES[n % 4]) for n in range(16)]
    make_run(tmp_path, scenes)
    assert ovseg("export", "run", "--to", "label-studio").exit_code == 0
    tasks = json.loads(Path("run/exports/label_studio/tasks.json").read_text())
    for number, task in enumerate(tasks):
        regions = task.pop("predictions")[0]["result"]
        kept = regions if SCORES[number % 4] > 0.5 else regions[:1]
        task["annotations"] = [{"result": kept, "lead_time": 6.0}]
    Path("review.json").write_text(json.dumps(tasks))
    return tmp_path


def test_review_to_calibrated_job(folder: Path) -> None:
    shown = ovseg("import-review", "run", "--from", "label-studio", "review.json")
    assert shown.exit_code == 0, shown.output
    assert "share accepted" in shown.stdout
    assert "1.6 for 16 images" in shown.stdout
    assert "IoU: all predicted against all corrected pixels of the label" in shown.stdout
    assert "ovseg calibrate run; ovseg evaluate run --truth reviewed" in shown.stdout
    guessed = ovseg("import-review", "run", "review.json", "--json")
    assert "review.json is read as --from label_studio" in guessed.stderr
    report = json.loads(guessed.stdout)
    labels = {label["name"]: label for label in report["labels"]}
    assert labels["cat"]["accepted"] == labels["cat"]["predicted"] == 16
    assert (labels["dog"]["accepted"], labels["dog"]["rejected"]) == (8, 8)

    evaluated = json.loads(ovseg("evaluate", "run", "--truth", "reviewed", "--json").stdout)
    assert evaluated["num_images"] == 16
    ious = {label["name"]: label["iou"] for label in evaluated["labels"]}
    assert ious["cat"] == 1.0
    assert ious["dog"] == pytest.approx(labels["dog"]["iou"])

    fitted = ovseg("calibrate", "run", "--set", "min_segments=10")
    assert fitted.exit_code == 0, fitted.output
    numbers = json.loads(ovseg("calibrate", "run", "--set", "min_segments=10", "--json").stdout)
    is_worse = numbers["after"]["expected_error"] > numbers["before"]["expected_error"]
    assert ("further from the truth than the score that you have" in fitted.stdout) == is_worse
    assert Path("run/reviewed/reliability.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(Path("run/reviewed/calibration.json").read_text())
    assert content["thresholds"]["cat"] == 0
    assert 0.2 < content["thresholds"]["dog"] < 1
    elsewhere = ovseg("calibrate", "run", "--out", "mine.json", "--json")
    assert json.loads(elsewhere.stdout)["calibration"]["num_segments"] == 48
    planned = ovseg(
        "annotate", "--images", "photos", "--labels", "cat", "--out", "next",
        "--set", "calibration=mine.json", "--set", "clip.model=embedded", "--dry-run",
    )  # fmt: skip
    assert planned.exit_code == 0, planned.output
    undone = ovseg("import-review", "run", "--undo", report["id"]).stdout
    assert "calibration.json may have been learned from it: learn it again" in undone
    wrong = ovseg(
        "annotate", "--images", "photos", "--labels", "cat", "--out", "next",
        "--set", "calibration=mine.json", "--set", "method.name=naclip", "--dry-run",
    )  # fmt: skip
    assert wrong.exit_code == 1
    assert "the calibration is of the method 'clip_diy'" in wrong.stderr


def test_calibrate_is_the_next_step_once_enough_segments_are_reviewed(folder: Path) -> None:
    tasks = json.loads(Path("review.json").read_text())
    for tasks_now, needed in ((tasks[:1], True), (tasks[1:5], True), (tasks[5:], False)):
        Path("some.json").write_text(json.dumps(tasks_now))
        shown = ovseg("import-review", "run", "--from", "label-studio", "some.json").stdout
        fitted = ovseg("calibrate", "run")
        assert ("segments needed)" in shown) == needed == (fitted.exit_code != 0), shown
        if needed:
            number = 20 - int(fitted.stderr.split()[1])
            assert f"ovseg calibrate run ({number} more reviewed segments needed)" in shown


def test_a_coco_file_with_one_edited_image_is_taken_with_a_caution(folder: Path) -> None:
    assert ovseg("export", "run", "--to", "coco").exit_code == 0
    file = Path("run/exports/coco/instances.json")
    refused = ovseg("import-review", "run", str(file.with_name("results_segm.json")))
    assert refused.exit_code == 1
    assert "results_segm.json is COCO's list of results" in refused.stderr
    assert "as instances.json, which" in refused.stderr
    assert "is read as" not in refused.stderr
    dataset = json.loads(file.read_text())
    dataset["annotations"].pop()
    Path("edited.json").write_text(json.dumps(dataset))
    shown = ovseg("import-review", "run", "edited.json").stdout
    assert "16, 15 of them unchanged from the run" in shown
    assert "16 images count as reviewed; 15 of them are unchanged from the run" in shown
    told = "15 of the 16 reviewed images were imported as the run predicted them: if nobody"
    assert f"caution                     {told}" in ovseg("calibrate", "run").stdout
    identity = json.loads(ovseg("import-review", "run", "--list", "--json").stdout)[0]["id"]
    assert f"ovseg import-review run --undo {identity}" in shown
    assert ovseg("import-review", "run", "--undo", identity).exit_code == 0

    for image in dataset["images"][:8]:
        image["checked"] = True
    Path("edited.json").write_text(json.dumps(dataset))
    again = ovseg("import-review", "run", "edited.json").stdout
    assert re.search(r"images reviewed +9\b", again), "the marked ones, and the edited one"
    assert "not marked as checked" in again
    assert "unchanged from the run" not in again
    repeated = ovseg("import-review", "run", "edited.json", "--unchanged-means", "reviewed").stdout
    assert "unchanged from the run" not in repeated, "a person has said that they are checked"


def test_a_label_without_a_threshold_of_its_own_says_why(folder: Path) -> None:
    assert ovseg("import-review", "run", "review.json").exit_code == 0
    shown = ovseg("calibrate", "run").stdout
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    shared = json.loads(Path("run/reviewed/calibration.json").read_text())["default_threshold"]
    assert rows["dog"][3] == "-", "16 reviewed segments"
    assert "threshold -" in shown
    assert f"the threshold of all labels together holds, {shared:.3f}" in shown
    own = ovseg("calibrate", "run", "--set", "min_segments=10").stdout
    assert "threshold -" not in own
    none = ovseg("calibrate", "run", "--set", "thresholds=false").stdout
    assert "none is fitted (thresholds=false)" in none


def test_compare_two_runs(folder: Path) -> None:
    scenes = [Scene(f"{n:02d}.png", label_map(n % 5 + 1)) for n in range(16)]
    make_run(folder / "second", scenes, RunSpec(shard_size=5))
    shown = ovseg("compare", "run", "second/run")
    assert shown.exit_code == 0, shown.output
    assert "Agreement by label" in shown.stdout
    report = json.loads(ovseg("compare", "run", "second/run", "--json").stdout)
    assert report["num_images"] == 16
    assert Path("run", report["file"]).is_file()


def test_long_tables_name_the_number_of_hidden_labels(folder: Path) -> None:
    maps = np.arange(1, 61).reshape(6, 10).astype(np.uint16)
    labels = tuple(f"word {number}" for number in range(60))
    make_run(folder / "many", [Scene("a.png", maps)], RunSpec(labels=labels))
    make_run(folder / "turned", [Scene("a.png", maps[::-1])], RunSpec(labels=labels))
    shown = ovseg("compare", "many/run", "turned/run")
    assert "and 10 more labels (--json shows all)" in shown.stdout


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["import-review", "run", "--from", "labelstudio", "review.json"], "label_studio"),
        (["import-review", "run", "--from", "coco", "review.json"], "COCO"),
        (["import-review", "run", "--from", "cvat", "review.json"], "not XML"),
        (["import-review", "run", "photos/00.png"], "cannot tell which this is: give --from"),
        (["import-review", "run", "--from", "coco", "nowhere.json"], "no such file"),
        (["import-review", "nowhere", "--from", "coco", "review.json"], "is not a run folder"),
        (["calibrate", "run"], "0 segments of 0 images are reviewed"),
        (["calibrate", "run", "--set", "min_iou=2"], "min_iou"),
        (["calibrate", "run", "--out", "/"], "--out / is not a file name"),
        (["evaluate", "run", "--truth", "reviewed"], "no image of the run is reviewed"),
        (["compare", "run", "run"], "same run"),
        (["compare", "run", "nowhere"], "is not a run folder"),
    ],
)
def test_mistakes_are_one_line(folder: Path, args: list[str], expected: str) -> None:
    result = ovseg(*args)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1
    assert expected in result.stderr
    assert not Path("run/reviewed").exists()


def test_undecodable_names_are_shown(folder: Path) -> None:
    tasks = json.loads(Path("review.json").read_text())
    tasks[0]["annotations"][0]["result"][0]["value"]["brushlabels"] = ["\ud800 owl"]
    tasks[1]["data"] = {"image": "/data/\ud800.png", "file_name": "\ud800.png"}
    Path("review.json").write_text(json.dumps(tasks))
    shown = ovseg("import-review", "run", "--from", "label-studio", "review.json")
    assert shown.exit_code == 0, shown.output
    assert "? owl (1)" in shown.stdout
    assert "left out: images that the run has not annotated: 1\n  ?.png" in shown.stdout


def test_full_disk_is_one_line(folder: Path) -> None:
    script = (
        "import resource, signal; from jobs.cli import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); main()"
    )
    command = [sys.executable, "-c", script, "export", "run", "--to", "coco"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == ExitCode.OUTAGE
    (line,) = result.stderr.splitlines()
    assert "set TMPDIR to a folder with more room" in line
    assert not Path("run/exports/coco").exists()
