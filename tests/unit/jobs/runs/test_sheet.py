"""`ovseg sheet`: a picture of any run, wherever it lies."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.run.folder import RunFolder
from pipeline.storage.folder import Folder
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, [Scene(f"{name}.png", label_map(n)) for n, name in enumerate("abc")])


def test_sheet_lies_in_the_run_folder_and_shows_as_many_images_as_asked_for(run: RunFolder) -> None:
    for limit, height in ((2, 0), (3, 1)):
        result = ovseg("sheet", run.folder.uri, "--limit", str(limit))
        assert result.exit_code == 0, result.output
        place = f"{run.folder.uri}/contact_sheet.png"
        assert result.stdout == f"{limit} of 3 images: {place}\n"
        with Image.open(place) as sheet:
            assert sheet.height > 250 + 200 * height
            assert sheet.height < 350 + 300 * height


def test_truth_is_a_third_tile(run: RunFolder, tmp_path: Path) -> None:
    assert ovseg("export", run.folder.uri).exit_code == 0
    truth = f"{run.folder.uri}/exports/coco/instances.json"
    sizes = []
    for name, flags in (("a.png", ()), ("b.jpg", ("--truth", truth))):
        out = str(tmp_path / name)
        assert ovseg("sheet", run.folder.uri, "--out", out, *flags).exit_code == 0
        with Image.open(out) as sheet:
            sizes.append(sheet.size)
    (width, height), (with_truth, lower) = sizes
    assert with_truth == width
    assert lower < height, "three tiles in a row are smaller than two"


def test_labels_of_the_truth_can_have_other_names(run: RunFolder, tmp_path: Path) -> None:
    assert ovseg("export", run.folder.uri).exit_code == 0
    file = Path(run.folder.uri, "exports/coco/instances.json")
    ours = json.loads(file.read_text("utf-8"))
    for category in ours["categories"]:
        category["name"] = f"their {category['name']}"
    theirs = tmp_path / "theirs.json"
    theirs.write_text(json.dumps(ours), "utf-8")
    names = run.info.job().vocabulary.names
    renamed = [part for name in names for part in ("--label", f"their {name}={name}")]
    pictures = []
    for truth, flags in ((file, []), (theirs, renamed)):
        out = tmp_path / "sheet.png"
        result = ovseg("sheet", run.folder.uri, "--out", str(out), "--truth", str(truth), *flags)
        assert result.exit_code == 0, result.output
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]
    result = ovseg("sheet", run.folder.uri, "--truth", str(theirs))
    assert "say with --label THEIRS=OURS" in result.stderr
    assert ovseg("sheet", run.folder.uri, "--label", "a=b").exit_code == 2


def test_truth_can_be_what_people_left_of_the_run(run: RunFolder, tmp_path: Path) -> None:
    nothing = ovseg("sheet", run.folder.uri, "--truth", "reviewed")
    assert nothing.exit_code == 1
    assert "no image of the run is reviewed" in nothing.stderr
    assert ovseg("export", run.folder.uri).exit_code == 0
    truth = f"{run.folder.uri}/exports/coco/instances.json"
    result = ovseg("import-review", run.folder.uri, truth, "--unchanged-means", "reviewed")
    assert result.exit_code == 0, result.output
    named = ovseg("sheet", run.folder.uri, "--truth", "reviewed", "--label", "kitty=cat")
    assert named.exit_code == 1
    assert "--label kitty=cat: expected a truth with names of its own" in named.stderr
    pictures = []
    for given in (truth, "reviewed"):
        out = tmp_path / "sheet.png"
        result = ovseg("sheet", run.folder.uri, "--out", str(out), "--truth", given)
        assert result.exit_code == 0, result.output
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]


def test_sheet_of_a_remote_run_is_a_local_file(
    run: RunFolder, s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Folder(s3_folder)
    for name in run.folder.list():
        remote.atomic_write(name, run.folder.read_bytes(name))
    monkeypatch.chdir(tmp_path)
    result = ovseg("sheet", s3_folder)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"3 of 3 images: {tmp_path}/folder-contact_sheet.png\n"
    assert Path("folder-contact_sheet.png").is_file()
    assert "contact_sheet.png" not in remote.list()


def test_images_that_are_gone_are_named_and_a_sheet_of_none_is_refused(
    run: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "photos" / "a.png").unlink()
    result = ovseg("sheet", run.folder.uri)
    assert result.stdout.startswith("2 of 3 images")
    assert "1 image left out, the first is a.png: not_found" in result.stderr
    (tmp_path / "photos" / "b.png").unlink()
    (tmp_path / "photos" / "c.png").unlink()
    result = ovseg("sheet", run.folder.uri)
    assert result.exit_code == 1
    assert "has no image to show" in result.stderr


def test_sheet_refuses_a_name_that_is_no_picture_and_a_folder_that_is_no_run(
    run: RunFolder, tmp_path: Path
) -> None:
    result = ovseg("sheet", run.folder.uri, "--out", str(tmp_path / "sheet.pdf"))
    assert result.exit_code == 1
    assert "expected a name that ends in .png, .jpg" in result.stderr
    assert ovseg("sheet", str(tmp_path)).exit_code == 1
    unfinished = make_run(
        tmp_path / "other", [Scene("a.png", label_map(0))], RunSpec(unfinished=(0,))
    )
    assert "has no image to show" in ovseg("sheet", unfinished.folder.uri).stderr
