"""`ovseg evaluate`: mistakes before anything is compared."""

import json
import re
import time
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.corrections.log import ReviewLog
from pipeline.exporters import coco
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import RunSpec, Scene, crowded_run, label_map, make_run


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_wrong_rule_of_an_evaluation(tmp_path: Path) -> None:
    result = ovseg("evaluate", str(tmp_path), "--truth", "t.json", "--set", "crowds=ignore")
    assert result.exit_code == 1
    assert result.stderr == "error: crowds: unknown key; did you mean 'crowd'?\n"


def test_folder_that_is_not_a_run(tmp_path: Path) -> None:
    result = ovseg("evaluate", str(tmp_path / "nowhere"), "--truth", "t.json")
    assert result.exit_code == 1
    assert "nowhere is not a run folder (run.yaml is missing): expected one" in result.stderr


def test_another_truth_replaces_the_report_and_pixels_are_shown(tmp_path: Path) -> None:
    labels = label_map(0)
    run = make_run(tmp_path, [Scene("a.png", labels), Scene("b.png", labels)])
    for number, folder in enumerate(("first", "second")):
        (tmp_path / folder).mkdir()
        values = np.roll(labels, number, axis=1).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / folder / "a.png")
    shown = [
        ovseg("evaluate", run.folder.uri, "--truth", str(tmp_path / folder)).stdout
        for folder in ("first", "first", "second")
    ]
    assert ["they replaced those against" in text for text in shown] == [False, False, True]
    assert f"against {tmp_path}/first; to keep several, copy them in between" in shown[2]
    heads = [line.split() for line in shown[2].splitlines() if "taken for" in line]
    assert heads == [["true", "taken", "for", "px", "share", "of", "the", "true"]]


def test_a_review_that_is_mostly_unchanged_is_cautioned(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    dataset = json.loads(run.folder.read_bytes(coco.export(run, coco.Options())[0]))
    dataset["annotations"].pop()
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(dataset))
    assert ovseg("import-review", run.folder.uri, str(file)).exit_code == 0
    for more in ([], ["--instances"]):
        shown = ovseg("evaluate", run.folder.uri, "--truth", "reviewed", *more).stdout
        assert "caution: 2 of the 3 reviewed images were imported as the run" in shown
    decision = {"image_id": "id-0.png", "action": "accept", "at_s": time.time() + 9}
    ReviewLog(run).append([ReviewDecision.model_validate(decision)])
    shown = ovseg("evaluate", run.folder.uri, "--truth", "reviewed").stdout
    assert "caution" not in shown, "somebody has looked at one of the two"


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
    assert "left out: images that the run has not annotated: 1\n  stranger.png" in shown
    result = ovseg(*given, "--truth-background", "7")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: truth_background: expected '0', '255' or 'none'")


def test_names_that_only_the_truth_has_are_counted_and_can_be_mapped(tmp_path: Path) -> None:
    labels = np.ones((6, 9), np.uint16)
    spec = RunSpec(labels=("sofa", "dog"))
    run = make_run(tmp_path, [Scene("a.png", labels), Scene("b.png", labels)], spec)
    names = ["couch", "dog", *(f"thing {number:02}" for number in range(30))]
    truth = tmp_path / "truth"
    truth.mkdir()
    (truth / "classes.json").write_text(json.dumps({"classes": ["background", *names]}))
    Image.fromarray(labels.astype(np.uint8)).save(truth / "a.png")
    given = ("evaluate", run.folder.uri, "--truth", str(truth))
    shown = ovseg(*given)
    assert "31 of the truth that the run was not asked for, taken as background" in shown.stdout
    assert "couch, thing 00" in shown.stdout
    assert "and 21 more" in shown.stdout
    assert "the truth has no 'sofa'" in shown.stdout
    assert "its nearest: couch (--label couch=sofa)" in shown.stdout
    assert "mIoU                     0.000" in shown.stdout
    for pair in ("couch=sofa", "sofa=couch"):
        mapped = ovseg(*given, "--label", pair).stdout
        assert "mIoU                     1.000" in mapped
        assert "the truth has no" not in mapped
        assert "\ntaken as sofa: couch\n" in mapped
        assert re.search(r"labels in no true mask +dog\n", mapped)
    both = ovseg(*given, "--label", "couch=sofa", "--label", "thing 00=sofa").stdout
    assert "\ntaken as sofa: couch, thing 00\n" in both
    assert "\ntaken as" not in shown.stdout
    wrong = ovseg(*given, "--label", "coach=sofa")
    assert wrong.exit_code == 1
    assert "the truth has no 'coach': Did you mean 'couch'" in wrong.stderr


def test_a_truth_of_other_names_altogether_says_how_to_map_them(tmp_path: Path) -> None:
    labels = np.ones((6, 9), np.uint16)
    run = make_run(tmp_path, [Scene("a.png", labels)], RunSpec(labels=("sofa",)))
    truth = tmp_path / "truth"
    truth.mkdir()
    (truth / "classes.json").write_text(json.dumps({"classes": ["background", "couch"]}))
    Image.fromarray(labels.astype(np.uint8)).save(truth / "a.png")
    result = ovseg("evaluate", run.folder.uri, "--truth", str(truth))
    assert result.exit_code == 1
    assert "the truth has couch; the run has sofa; give a truth with" in result.stderr
    assert "such as --label couch=sofa" in result.stderr


def test_instances_are_printed_by_label_and_kept_in_the_run_folder(tmp_path: Path) -> None:
    run = crowded_run(tmp_path, RunSpec(labels=("cat", "dog", "potted plant", "axolotl")))
    truth = f"{run.folder.uri}/{coco.export(run, coco.Options(label_answers=False))[0]}"
    given = ("evaluate", run.folder.uri, "--truth", truth, "--instances")
    shown = ovseg(*given).stdout
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert lines["cat"] == [*["1.000"] * 4, "100.000", "1.000", "1.000", "4", "4"]
    assert lines["cgF1"] == ["100.000"]
    assert "axolotl" not in lines
    assert "labels in neither truth nor run  1" in shown
    assert "segments of the run are          instances" in shown
    assert shown.splitlines()[-1] == f"{run.folder.uri}/evaluation_instances.json"
    printed = json.loads(ovseg(*given, "--json", "--set", "min_score=0.5").stdout)
    assert printed == json.loads(run.folder.read_bytes("evaluation_instances.json"))
    assert (printed["num_low_score"], printed["labels"][0]["figures"]["ar100"]) == (6, 0.5)


def test_wrong_flags_beside_instances_are_refused(tmp_path: Path) -> None:
    run = crowded_run(tmp_path)
    given = ("evaluate", run.folder.uri, "--instances")
    label_images = ovseg(*given, "--truth", "maps", "--truth-background", "255")
    assert label_images.exit_code == 2
    assert "which hold no instances" in label_images.stderr
    wrong = ovseg(*given, "--truth", "t.json", "--set", "min_score=2")
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith("error: min_score: ")
    none = ovseg(*given, "--truth", str(tmp_path / "photos"))
    assert none.exit_code == 1
