"""`ovseg sample`, and the commands that take its list."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.demo.scenes import draw_scene
from pipeline.curation.image_lists import listed_images
from pipeline.run.folder import RunFolder
from pipeline.run.inspection.check import check_run
from tests.helpers.drawn_runs import Scene, label_map, make_run


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, [Scene(f"{n}.png", label_map(n), 0.9 - n / 20) for n in range(8)])


def test_doubtful_images_are_listed_in_the_run_folder(run: RunFolder):
    result = ovseg("sample", run.folder.uri, "--count", "3")
    assert result.exit_code == 0, result.output
    place = f"{run.folder.uri}/exports/lists/sample-doubt.csv"
    assert place in result.stdout
    assert "3 of 8" in result.stdout
    assert [line.split(",")[1] for line in Path(place).read_text("utf-8").splitlines()] == [
        "path", "7.png", "6.png", "5.png",
    ]  # fmt: skip
    assert check_run(run).is_clean


def test_export_of_a_list_has_its_images_alone(run: RunFolder, tmp_path: Path):
    out = str(tmp_path / "next.csv")
    command = ("sample", run.folder.uri, "--by", "balanced", "--count", "4", "--out", out)
    found = ovseg(*command, "--json")
    assert found.exit_code == 0, found.output
    paths = {one["path"] for one in json.loads(found.stdout)["images"]}
    assert len(paths) == 4
    assert ovseg("export", run.folder.uri, "--only", out).exit_code == 0
    coco = json.loads(Path(run.folder.uri, "exports/coco/instances.json").read_text("utf-8"))
    assert {image["file_name"] for image in coco["images"]} == paths
    assert {one["image_id"] for one in coco["annotations"]} <= {one["id"] for one in coco["images"]}
    whole = ovseg("export", run.folder.uri, "--to", "semantic-png")
    assert whole.exit_code == 0
    losses = Path(run.folder.uri, "exports/coco/LOSSES.txt").read_text("utf-8")
    assert "4  images that are not in the list" in losses
    assert "images that failed" not in losses, "none of the list did"
    assert check_run(run).is_clean, "also with an export of some images"


def test_first_of_a_diverse_sample_has_no_distance(copied_run: RunFolder):
    command = ("sample", copied_run.folder.uri, "--by", "diverse", "--count", "3")
    found = ovseg(*command, "--json")
    assert found.exit_code == 0, found.output
    values = [one["value"] for one in json.loads(found.stdout)["images"]]
    assert values[0] is None
    assert all(0 < value <= 2 for value in values[1:])
    listed = Path(json.loads(found.stdout)["list"]).read_text("utf-8")
    rows = csv.DictReader(listed.splitlines())
    assert [row["note"].partition(":")[0] for row in rows] == [
        "the first, by chance", "distance to the sample so far", "distance to the sample so far",
    ]  # fmt: skip


def test_the_only_image_is_far_from_no_other(tmp_path: Path):
    Image.fromarray(draw_scene(0).image).save(tmp_path / "one.png")
    annotate = ("annotate", "--local", "--images", f"{tmp_path}/one.png", "--labels", "star")
    options = ("--set", "clip.model=embedded", "--set", "run.device=cpu")
    result = ovseg(*annotate, "--out", f"{tmp_path}/run", *options)
    assert result.exit_code == 0, result.output
    notes = {"outlier": "there is no other image", "diverse": "the first, by chance"}
    for by, note in notes.items():
        found = ovseg("sample", f"{tmp_path}/run", "--by", by, "--json")
        assert found.exit_code == 0, found.output
        assert json.loads(found.stdout)["images"] == [{"path": "one.png", "value": None}]
        listed = Path(json.loads(found.stdout)["list"]).read_text("utf-8")
        assert [row["note"] for row in csv.DictReader(listed.splitlines())] == [note]


def test_delete_knows_lists_as_files_of_its_own(run: RunFolder):
    assert ovseg("sample", run.folder.uri, "--count", "2").exit_code == 0
    result = ovseg("delete", run.folder.uri, "--yes")
    assert result.exit_code == 0, result.output
    assert not Path(run.folder.uri).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--by", "chance"], "expected doubt, diverse, balanced, outlier"),
        (["--out", "list.xlsx"], "ends in .csv or .txt"),
    ],
)
def test_mistakes_are_told(run: RunFolder, flags: list[str], message: str):
    result = ovseg("sample", run.folder.uri, *flags)
    assert result.exit_code == 1
    assert message in result.stderr


def test_list_is_taken_by_annotate_under_the_same_ids(run: RunFolder, tmp_path: Path):
    out = str(tmp_path / "next.csv")
    assert ovseg("sample", run.folder.uri, "--count", "3", "--out", out).exit_code == 0
    annotate = ("annotate", "--local", "--images", out, "--out", str(tmp_path / "second"))
    options = ("--labels", "cat,dog", "--set", "clip.model=embedded", "--set", "run.device=cpu")
    result = ovseg(*annotate, *options)
    assert result.exit_code == 0, result.output
    second = RunFolder.open(str(tmp_path / "second"))
    assert sorted(second.manifest()["path"].to_pylist()) == ["5.png", "6.png", "7.png"]
    assert len(listed_images(second, out)) == 3
