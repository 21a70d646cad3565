"""`ovseg duplicates`: planted copies are found, nothing else is."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import Scene, label_map, make_run

GROUPS = [
    {f"a/{seed:02d}.png", *(f"c/{seed:02d}-{number}.png" for number in range(4))}
    for seed in range(6)
]


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_planted_copies_are_found_and_the_largest_first_is_kept(
    copied_run: RunFolder, tmp_path: Path
):
    out = tmp_path / "duplicates.csv"
    result = ovseg("duplicates", copied_run.folder.uri, "--json", "--out", str(out))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [{one["keep"], *one["copies"]} for one in found["groups"]] == GROUPS
    assert [one["keep"] for one in found["groups"]] == [f"a/{seed:02d}.png" for seed in range(6)]
    assert all(one["copies"][-1].endswith("-3.png") for one in found["groups"]), "half the size"
    assert (found["num_images"], found["num_copies"], found["num_unread"]) == (48, 24, 0)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows if row["keep"] == "1"] == [f"a/0{n}.png" for n in range(6)]
    assert rows[0]["note"] == "group 1, keep"
    assert rows[1]["note"] == "group 1, copy"
    least = [
        min(float(row["correlation"]) for row in rows if row["group"] == str(number))
        for number in range(1, 7)
    ]
    assert min(least) > 0.9
    assert [one["least_correlation"] for one in found["groups"]] == least


def test_list_without_copies_has_every_other_image(copied_run: RunFolder):
    result = ovseg("duplicates", copied_run.folder.uri)
    assert result.exit_code == 0, result.output
    assert "24 in 6 groups" in result.stdout
    place = Path(copied_run.folder.uri, "exports/lists/without-copies.csv")
    assert str(place) in result.stdout
    with place.open(encoding="utf-8", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == [f"{'a' if n < 12 else 'b'}/{n:02d}.png" for n in range(24)]


def test_vectors_alone_find_fewer_and_read_nothing(copied_run: RunFolder, tmp_path: Path):
    command = ("duplicates", copied_run.folder.uri, "--json", "--out", str(tmp_path / "a.csv"))
    strict = json.loads(ovseg(*command, "--no-pictures", "--threshold", "0.9995").stdout)
    assert strict["num_read"] == 0
    assert all(one["least_correlation"] is None for one in strict["groups"])
    assert 0 < strict["num_copies"] < 24
    everything = json.loads(ovseg(*command, "--no-pictures", "--threshold", "-1").stdout)
    assert everything["num_copies"] == 47


def test_images_that_are_gone_are_judged_by_their_vectors_and_counted(
    copied_run: RunFolder, tmp_path: Path
):
    place = Path(copied_run.folder.uri).parent / "images" / "c"
    shutil.move(place, tmp_path / "c")
    try:
        out = str(tmp_path / "a.csv")
        result = ovseg("duplicates", copied_run.folder.uri, "--json", "--out", out)
    finally:
        shutil.move(tmp_path / "c", place)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert 20 <= found["num_unread"] <= 24
    assert "could not be read" in result.stderr
    assert found["num_copies"] > 6


def test_run_without_vectors_says_what_to_do(tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    for command in (("duplicates",), ("sample", "--by", "diverse"), ("search", "cat"), ("split",)):
        result = ovseg(command[0], run.folder.uri, *command[1:])
        assert result.exit_code == 1, result.output
        assert "its images have no vectors" in result.stderr
        assert "annotate them with a method that does" in result.stderr
    assert "--ignore-duplicates" in result.stderr


@pytest.mark.parametrize("threshold", ["1.5", "near"])
def test_threshold_that_is_no_cosine_is_refused(copied_run: RunFolder, threshold: str):
    result = ovseg("duplicates", copied_run.folder.uri, "--threshold", threshold)
    assert result.exit_code == 2
