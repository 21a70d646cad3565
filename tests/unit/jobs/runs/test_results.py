"""`ovseg inspect` and `ovseg export`: mistakes, and what they say of a review."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.runs.results import show_inspection
from pipeline.annotate.bottleneck import bottleneck_of
from pipeline.corrections.layer import ReviewedLayer
from pipeline.corrections.log import ReviewLog
from pipeline.run.inspection.inspect import inspect_folder
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import RunSpec, Scene, grow_run, label_map, make_run


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.mark.parametrize("command", ["inspect", "export", "evaluate"])
def test_folder_that_is_not_a_run(tmp_path: Path, command: str) -> None:
    truth = ["--truth", "t.json"] if command == "evaluate" else []
    result = ovseg(command, str(tmp_path / "nowhere"), *truth)
    assert result.exit_code == 1
    assert "nowhere is not a run folder (run.yaml is missing): expected one" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["--to", "cocoo"],
            "error: no 'cocoo' among the exporters: Did you mean 'coco'? All exporters: coco, ",
        ),
        (["--to", "coco", "--set", "polygon=true"], "error: polygon: unknown key; did you mean "),
        (["--to", "yolo-seg", "--set", "polygons=true"], "error: polygons: unknown key; known "),
        (["--to", "coco", "--segments", "all"], "error: segments: expected 'as_run', 'class' or"),
        (["--masks", "mine"], "error: masks: expected 'predicted', 'reviewed' or 'merged', got "),
    ],
)
def test_wrong_format_or_option(tmp_path: Path, args: list[str], expected: str) -> None:
    result = ovseg("export", str(tmp_path), *args)
    assert result.exit_code == 1
    assert result.stderr.startswith(expected)


def test_inspect_lists_the_files_that_count(tmp_path: Path) -> None:
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(5)]
    run = make_run(tmp_path, scenes, RunSpec(shard_size=2, unfinished=(1,)))
    Path(run.folder.uri, "annotations", "00000-killed-01234567.parquet").write_bytes(b"x")
    result = ovseg("inspect", run.folder.uri, "--files", "annotations")
    names = [run.done()[shard].files["annotations"].name for shard in (0, 2)]
    assert result.stdout.splitlines() == [f"{run.folder.uri}/{name}" for name in names]
    assert ovseg("inspect", run.folder.uri, "--files", "masks").exit_code == 1
    assert ovseg("inspect", run.folder.uri, "--files", "images", "--json").exit_code == 2
    run = make_run(tmp_path / "whole", scenes, RunSpec(shard_size=2))
    run = grow_run(run, [Scene("new.png", label_map(7))])
    assert len(ovseg("inspect", run.folder.uri, "--files", "images").stdout.splitlines()) == 4
    grow_run(run, changed=[Scene("0.png", label_map(8))], vanished=["1.png"])
    refused = ovseg("inspect", run.folder.uri, "--files", "images")
    assert refused.exit_code == 1
    assert "2 images vanished or changed, and the files still hold their rows" in refused.stderr


def test_inspect_lists_no_files_of_a_run_without_any(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Scene("a.png", label_map(0))], RunSpec(unfinished=(0,)))
    result = ovseg("inspect", run.folder.uri, "--files", "scores")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no shard is finished yet" in result.stderr


def test_inspect_and_export_tell_the_state_of_a_review(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Scene("a.png", label_map(0)), Scene("b.png", label_map(1))])
    assert "review" not in ovseg("inspect", run.folder.uri).stdout
    decision = {"image_id": "id-a.png", "action": "reject", "at_s": time.time()}
    ReviewLog(run).append([ReviewDecision.model_validate(decision)])
    shown = ovseg("inspect", run.folder.uri).stdout
    assert "1 image reviewed (1 rejected as a whole" in shown
    names = ("\nsegments ", "\nreview ", "\nreviewed masks ", "\nimage x label ", "Slowest images")
    places = [shown.index(name) for name in names]
    assert places == sorted(places), "beside the counts, not below the times"
    state = json.loads(ovseg("inspect", run.folder.uri, "--json").stdout)["review"]
    assert (state["num_reviewed"], state["num_rejected"], state["num_accepted"]) == (1, 3, 0)
    for flags, expected in (([], "merged"), (["--masks", "predicted"], "predicted")):
        result = ovseg("export", run.folder.uri, "--to", "coco", *flags)
        assert result.exit_code == 0
        losses = run.folder.read_bytes("exports/coco/LOSSES.txt").decode().splitlines()
        assert f"masks={expected}," in losses[1]
        assert losses[2].startswith(f"masks: {expected}")
        assert result.stderr.count(losses[2]) == 1


def test_export_says_whose_masks_it_wrote_how_many_and_where(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    result = ovseg("export", run.folder.uri, "--to", "labelme")
    folder = f"{run.folder.uri}/exports/labelme"
    lacks = "LOSSES.txt says what it lacks"
    counts = "3 JSON files, 3 images, 9 segments"
    said = f"masks: predicted, as the model made them; {counts} in {folder}; {lacks}\n"
    assert result.stderr == said, "a line of the console, without a time"
    assert result.stdout == f"{folder}\n"
    studio = ovseg("export", run.folder.uri, "--to", "label-studio")
    first, last = studio.stderr.splitlines()
    assert first.startswith("masks: predicted")
    assert last.startswith("Label Studio will look for the images at /data/")


def test_times_and_answers_are_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, [Scene("a.png", label_map(0))])
    found = inspect_folder(run)
    seconds = {
        "read": 1.0, "decode": 9.0, "segment": 34.0, "rle": 5.0, "wall": 98.0,
        "wait_images": 60.0, "wait_masks": 4.0, "write": 1.5, "wait_shard": 0.5,
    }  # fmt: skip
    limits = bottleneck_of(seconds, 250)
    found = found.model_copy(update={"seconds": seconds, "bottleneck": limits})
    show_inspection(found, ReviewedLayer(run).state())
    shown = " ".join(capsys.readouterr().out.split())
    assert "speed 2.5 images/s per worker while it worked (the job's last line counts all" in shown
    assert "seconds by stage read 1.0, decode 9.0, segment 34.0, rle 5.0 of the workers" in shown
    assert "computing 34.0, waiting for images 60.0, waiting for masks 4.0, writing" in shown
    assert "unsure: no mask, but 10 % probable somewhere" in shown
    assert "wait_" not in shown
    assert "not asked 0" in shown


@pytest.mark.parametrize(("number", "said"), [(1, "1 image of"), (2345, "2,345 images of")])
def test_images_of_several_frames_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, said: str
) -> None:
    run = make_run(tmp_path, [Scene("a.png", label_map(0))])
    found = inspect_folder(run).model_copy(update={"num_multi_frame": number})
    show_inspection(found, ReviewedLayer(run).state())
    assert f"{said} several frames or pages, one of each annotated" in capsys.readouterr().out


def test_embedded_models_on_photographs_are_said_by_inspect_and_exports(tmp_path: Path) -> None:
    spec = RunSpec(job={"clip": {"model": "embedded"}})
    run = make_run(tmp_path, [Scene("a.png", label_map(0))], spec)
    said = "embedded models: the masks mean something on drawn scenes only"
    assert said in ovseg("inspect", run.folder.uri).stdout
    assert said in json.loads(ovseg("inspect", run.folder.uri, "--json").stdout)["note_on_models"]
    assert said in ovseg("export", run.folder.uri, "--to", "coco").stderr
    assert said in run.folder.read_bytes("exports/coco/LOSSES.txt").decode()


def test_inspect_tells_the_generation_and_what_was_reviewed_before_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Scene("a.png", label_map(0)), Scene("b.png", label_map(1))])
    assert "generation" not in ovseg("inspect", run.folder.uri).stdout
    decision = {"image_id": "id-a.png", "action": "reject", "at_s": time.time()}
    ReviewLog(run).append([ReviewDecision.model_validate(decision)])
    grow_run(run, [Scene("c.png", label_map(2))], [Scene("a.png", label_map(3))], {"b.png"})
    shown = ovseg("inspect", run.folder.uri).stdout
    assert "2, by --update (RUN@1 is the first); 2 images of earlier ones vanished" in shown
    assert "changed since their review, which counts no more: 1 image" in shown
    counts = ("generation", "num_images", "num_superseded", "num_ok", "num_left", "num_shards_done")
    for uri, expected in (
        (run.folder.uri, (2, 2, 2, 2, 0, 2)),
        (f"{run.folder.uri}@1", (1, 2, 0, 2, 0, 1)),
    ):
        found = json.loads(ovseg("inspect", uri, "--json").stdout)
        assert tuple(found[name] for name in counts) == expected
