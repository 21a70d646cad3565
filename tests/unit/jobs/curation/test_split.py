"""`ovseg split`: parts without near-duplicates or groups across them."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.curation.image_lists import lists_of
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def parts(folder: Path) -> dict[str, set[str]]:
    found = {}
    for file in folder.glob("*.csv"):
        with file.open(encoding="utf-8", newline="") as rows:
            found[file.stem] = {row["path"] for row in csv.DictReader(rows)}
    return found


def test_near_duplicates_stay_together_and_all_images_are_dealt_out(
    copied_run: RunFolder, tmp_path: Path
):
    command = ("split", copied_run.folder.uri, "--val", "0.25", "--test", "0.25", "--json")
    for seed in ("0", "1"):
        out = tmp_path / seed
        result = ovseg(*command, "--seed", seed, "--out", str(out))
        assert result.exit_code == 0, result.output
        found, said = parts(out), json.loads(result.stdout)
        assert sum(map(len, found.values())) == len(set().union(*found.values())) == 48
        assert said["parts"] == {name: len(found[name]) for name in ("train", "val", "test")}
        assert 10 <= len(found["val"]) <= 14
        for scene in range(6):
            copies = {f"c/{scene:02d}-{number}.png" for number in range(4)}
            assert sum(bool(copies & paths) for paths in found.values()) == 1
    assert parts(tmp_path / "0") != parts(tmp_path / "1")
    again = ovseg(*command, "--seed", "1", "--out", str(tmp_path / "again"))
    assert again.exit_code == 0
    assert parts(tmp_path / "again") == parts(tmp_path / "1")


def test_labels_that_a_part_lacks_are_counted_and_named(tmp_path: Path):
    one, two = np.zeros((6, 9), np.uint16), np.zeros((6, 9), np.uint16)
    one[:2] = 1
    two[:2], two[3:] = 1, 2
    scenes = [Scene(f"{n}.png", two if n == 4 else one) for n in range(10)]
    run = make_run(tmp_path, scenes, RunSpec(labels=("cat", "dog", "axolotl")))
    command = ("split", run.folder.uri, "--val", "0.4", "--ignore-duplicates")
    shown = ovseg(*command).stdout
    assert shown.count("in no image of") == 1, "no image at all has an axolotl"
    assert re.search(r"\nin no image of (train|val): 1 of 2 labels \(dog\)\n", shown)
    spread = make_run(tmp_path / "spread", scenes[:4], RunSpec(labels=("cat", "dog")))
    assert "in no image of" not in ovseg(command[0], spread.folder.uri, *command[2:]).stdout
    assert "no image is in" not in shown
    tiny = ovseg(command[0], spread.folder.uri, "--val", "0.01", "--ignore-duplicates").stdout
    assert "no image is in val: " in tiny


def test_folders_stay_together(tmp_path: Path):
    scenes = [Scene(f"{n % 5}/{n}.png", label_map(n)) for n in range(20)]
    run = make_run(tmp_path, scenes)
    command = ("split", run.folder.uri, "--val", "0.4", "--ignore-duplicates")
    result = ovseg(*command, "--group", "folder", "--out", str(tmp_path / "lists"))
    assert result.exit_code == 0, result.output
    assert "12 train, 8 val" in result.stdout
    assert "not looked for" in result.stdout
    found = parts(tmp_path / "lists")
    folders = {name: {path[0] for path in paths} for name, paths in found.items()}
    assert not folders["train"] & folders["val"]
    assert len(folders["val"]) == 2


def test_values_of_a_column_stay_together(tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(12)])
    patients = tmp_path / "patients.csv"
    lines = [f"{n}.png,p{n // 3}" for n in range(12) if n != 5]
    patients.write_text("\n".join(["path,patient", *lines]) + "\n", "utf-8")
    command = ("split", run.folder.uri, "--val", "0.25", "--ignore-duplicates", "--json")
    out = tmp_path / "lists"
    result = ovseg(*command, "--group", "patient", "--table", str(patients), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "1 image without a value in `patient`" in result.stderr
    for paths in parts(out).values():
        numbers = {int(path.partition(".")[0]) for path in paths}
        for first in (0, 6, 9):
            assert numbers >= {first, first + 1, first + 2} or not numbers & {first, first + 1}
    assert json.loads(result.stdout)["num_groups"] == 5


def test_lists_of_an_older_split_do_not_stay_beside_a_newer_one(tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(10)])
    command = ("split", run.folder.uri, "--ignore-duplicates", "--val", "0.2")
    for more, names in ((("--test", "0.2"), ["test", "train", "val"]), ((), ["train", "val"])):
        assert ovseg(*command, *more).exit_code == 0
        assert list(lists_of(run)) == [f"split-{name}" for name in names]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--val", "0.7", "--test", "0.4"], "leave some images for training"),
        (["--val", "-0.1"], "leave some images for training"),
        (["--group", "patient"], "has no columns; expected `--group folder`"),
        (["--group", "patient", "--table", "TABLE"], "has the columns path, site; expected"),
        (["--group", "site", "--table", "OTHERS"], "names no image of"),
        (["--group", "site", "--table", "TWICE"], "the column `site` 2 times; expected it once"),
        (["--group", "id", "--table", "AGAIN"], "the column `path` 2 times; expected it once"),
        (["--group", "site", "--table", "gone.csv"], "cannot be read as a table"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, flags: list[str], message: str):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    (tmp_path / "table.csv").write_text("path,site\n0.png,x\n", "utf-8")
    (tmp_path / "others.csv").write_text("path,site\nx.png,x\n", "utf-8")
    (tmp_path / "twice.csv").write_text("path,site,site\n0.png,x,y\n", "utf-8")
    (tmp_path / "again.csv").write_text("path,id,path\n0.png,x,1.png\n", "utf-8")
    given = [str(tmp_path / f"{flag.lower()}.csv") if flag.isupper() else flag for flag in flags]
    result = ovseg("split", run.folder.uri, "--ignore-duplicates", *given)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert not Path(run.folder.uri, "exports").exists()
