"""`ovseg delete`: what ovseg wrote goes, after a question; everything else stays."""

import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from pipeline.storage.folder import Folder
from schemas import plugins
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import RunSpec, Scene, grow_run, label_map, make_run

SCENES = [Scene("a.png", label_map(0)), Scene("sub/b.png", label_map(1))]


def ovseg(*args: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, list(args), input=answer)


def with_all_outputs(run: RunFolder) -> RunFolder:
    """Write what every command writes into a run folder."""
    for name in plugins.names("pipeline.exporters"):
        exporter = plugins.load_plugin("pipeline.exporters", name)
        fields = exporter.Options.model_fields
        copies = {key: True for key in ("copy_images",) if key in fields}
        exporter.export(run, exporter.Options(**copies))
    truth = f"{run.folder.uri}/exports/coco/instances.json"
    assert ovseg("sheet", run.folder.uri).exit_code == 0
    assert ovseg("evaluate", run.folder.uri, "--truth", truth).exit_code == 0
    decision = {"image_id": "id-a.png", "action": "reject", "at_s": time.time()}
    ReviewLog(run).append([ReviewDecision.model_validate(decision)])
    imported = ovseg(
        "import-review", run.folder.uri, truth, "--from", "coco", "--unchanged-means", "reviewed"
    )
    assert imported.exit_code == 0, imported.output
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, SCENES)


def test_a_whole_run_is_deleted_and_its_images_stay(run: RunFolder, tmp_path: Path) -> None:
    with_all_outputs(run)
    result = ovseg("delete", run.folder.uri, answer="y\n")
    assert result.exit_code == 0, result.output
    assert "keeps" not in result.stdout, result.stdout
    assert "2 reviewed images, 1 import: people's work" in result.stdout
    assert not Path(run.folder.uri).exists()
    assert {path.name for path in (tmp_path / "photos").rglob("*.png")} == {"a.png", "b.png"}


def test_without_a_yes_nothing_is_deleted(run: RunFolder) -> None:
    before = run.folder.list()
    said = ovseg("delete", run.folder.uri, answer="n\n")
    assert said.exit_code == 0
    assert "nothing was deleted" in said.stdout
    silent = ovseg("delete", run.folder.uri)
    assert silent.exit_code == 1
    assert "--yes" in silent.stderr
    assert run.folder.list() == before


def test_only_yes_and_no_are_answers(run: RunFolder) -> None:
    said = ovseg("delete", run.folder.uri, answer="maybe\nwhat\n NO\n")
    assert said.exit_code == 0
    assert said.stderr.splitlines() == [
        "error: expected y or n, got 'maybe'", "error: expected y or n, got 'what'"
    ]  # fmt: skip
    assert "nothing was deleted" in said.stdout
    unanswered = ovseg("delete", run.folder.uri, answer="maybe\n").stderr.splitlines()
    assert [line.partition(":")[0] for line in unanswered if line.strip()] == ["error", "error"]
    assert "nothing was deleted" in ovseg("delete", run.folder.uri, answer="\n").stdout
    assert ovseg("delete", run.folder.uri, answer="Yes\n").exit_code == 0
    assert not Path(run.folder.uri).exists()


def test_a_students_folder_is_no_run_and_can_simply_be_removed(tmp_path: Path) -> None:
    for name in ("student.safetensors", "checkpoint.safetensors"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(b"x")
        result = ovseg("delete", str(folder), "--yes")
        assert result.exit_code == 1
        assert f"{folder} holds a student, no run: " in result.stderr
        assert f"rm -r {folder}\n" in result.stderr
    make_run(tmp_path / "made", SCENES)
    Path(tmp_path / "made/run").rename(folder / "teacher")
    assert f"{folder}; its teacher's run, teacher/, goes" in ovseg("delete", str(folder)).stderr
    (tmp_path / "empty").mkdir()
    assert "is not a run folder" in ovseg("delete", str(tmp_path / "empty")).stderr


OTHERS = (
    "notes.txt",
    "photos/holiday.jpg",
    "exports/coco/notes.txt",
    "exports/yolo_seg/images/mine.jpg",
    "exports/unknown/data.json",
    "reviewed/log/mine.json",
    "images/00000.parquet",
    "done/backup.json",
    "run.yaml.bak",
)


def test_files_of_others_and_links_are_named_and_kept(run: RunFolder, tmp_path: Path) -> None:
    root = Path(run.folder.uri)
    for name in OTHERS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    (root / "exports" / "link").symlink_to(tmp_path / "photos")
    (root / "done" / "00009.json").symlink_to(tmp_path / "photos" / "a.png")
    result = ovseg("delete", run.folder.uri, "--yes")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in OTHERS)
    assert "2 links, not followed" in result.stdout
    left = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    assert left == {*OTHERS, "done/00009.json"}
    assert (tmp_path / "photos" / "a.png").is_file()
    assert "not a run folder" in ovseg("delete", run.folder.uri, "--yes").stderr


def test_images_in_the_run_folder_stay_whatever_their_names(tmp_path: Path) -> None:
    scenes = [Scene("run/exports/semantic_png/labels/a.png", label_map(0)), SCENES[0]]
    # The collection is `tmp_path/photos`; the run lies in it.
    run = make_run(tmp_path, scenes)
    inside = tmp_path / "photos" / "run"
    for name in run.folder.list():
        Folder(str(inside)).atomic_write(name, run.folder.read_bytes(name))
    result = ovseg("delete", str(inside), "--yes")
    assert result.exit_code == 0, result.output
    assert [p for p in inside.rglob("*") if p.is_file()] == [
        inside / "exports" / "semantic_png" / "labels" / "a.png"
    ]


def test_a_run_that_a_job_writes_to_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, SCENES, RunSpec(shard_size=1, unfinished=(1,)))
    result = ovseg("delete", run.folder.uri, "--yes")
    assert result.exit_code == 1
    assert "a job seems to be going on in it" in result.stderr
    for name in run.folder.list():
        os.utime(Path(run.folder.uri, name), (1e9, 1e9))
    assert ovseg("delete", run.folder.uri, "--yes").exit_code == 0
    assert not Path(run.folder.uri).exists()


@pytest.mark.parametrize("content", [None, "schema_version: 2\n", "images: here\n"])
def test_what_is_no_run_folder_is_left_alone(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "00000.json").write_text("{}")
    if content is not None:
        (tmp_path / "run.yaml").write_text(content)
    assert ovseg("delete", str(tmp_path), "--yes").exit_code == 1
    assert (tmp_path / "done" / "00000.json").exists()


def test_an_interrupted_deletion_is_gone_on_with(run: RunFolder) -> None:
    for name in ("done/00000.json", "manifest.parquet"):
        run.folder.delete(name)
    for name in run.folder.list():
        os.utime(Path(run.folder.uri, name), (1e9, 1e9))
    assert ovseg("delete", run.folder.uri, "--yes").exit_code == 0
    assert not Path(run.folder.uri).exists()


def test_a_run_in_a_bucket_is_deleted_and_the_rest_stays(run: RunFolder, s3_folder: str) -> None:
    remote = Folder(s3_folder)
    for name in run.folder.list():
        remote.atomic_write(name, run.folder.read_bytes(name))
    remote.atomic_write("notes.txt", b"mine")
    result = ovseg("delete", s3_folder, "--yes")
    assert result.exit_code == 0, result.output
    assert remote.list() == ["notes.txt"]


def test_a_run_that_has_grown_is_deleted_as_a_whole(run: RunFolder) -> None:
    grow_run(run, [Scene("c.png", label_map(2))], [Scene("a.png", label_map(3))])
    one = ovseg("delete", f"{run.folder.uri}@1", "--yes")
    assert one.exit_code == 1
    assert "a run is deleted as a whole, so give it without @" in one.stderr
    result = ovseg("delete", run.folder.uri, "--yes")
    assert result.exit_code == 0, result.output
    assert "3 images by" in result.stdout
    assert not Path(run.folder.uri).exists()
