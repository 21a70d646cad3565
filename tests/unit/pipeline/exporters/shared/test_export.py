"""What all exports do alike: LOSSES.txt, an older export in the folder, copies of images."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.corrections.log import ReviewLog
from pipeline.exporters import (
    coco,
    cvat,
    fiftyone,
    label_studio,
    labelme,
    panoptic,
    semantic_png,
    yolo_seg,
)
from pipeline.exporters.shared.export import Export, ExportOptions, png_bytes
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from schemas.errors import RunFolderError
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import (
    RunSpec,
    Scene,
    awkward_scenes,
    label_map,
    make_run,
    odd_scenes,
)
from tests.helpers.exported_masks import READERS
from tests.helpers.image_files import png_bomb

INDEX = {semantic_png: "classes.json", panoptic: "panoptic.json", yolo_seg: "data.yaml"}
OTHER = {
    semantic_png: {"background": True},
    panoptic: {"segments": "components"},
    yolo_seg: {"tolerance_px": 0.0},
    labelme: {"segments": "components"},
}
"""Formats with a file for each image, with options that give other files."""
ALL = (*OTHER, coco, cvat, fiftyone, label_studio)


class Options(ExportOptions):
    level: int = 1


def _read(run: RunFolder, name: str) -> str:
    return run.folder.read_bytes(name).decode()


def test_export_writes_losses_last(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    with Export(run, "exports/x", Options(), "X") as export:
        export.put("a.txt", lambda: b"a")
        export.write("b.txt", b"b")
        local = export.local_file("c.txt")
        local.write_bytes(b"c")
        export.upload([local])
        assert not run.folder.exists("exports/x/LOSSES.txt")
    assert not local.exists()
    names = [f"exports/x/{name}" for name in ("LOSSES.txt", "a.txt", "b.txt", "c.txt")]
    assert run.folder.list("exports/x") == names


def test_export_raises_the_error_of_a_writer_thread_and_writes_no_losses(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    with pytest.raises(ZeroDivisionError), Export(run, "exports/x", Options(), "X") as export:
        export.put("a.txt", lambda: bytes(1 // 0))
    assert not run.folder.list("exports/x")


def test_export_leaves_an_older_one_until_its_first_file(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    for level in (1, 2):
        options = Options(level=level)
        with Export(run, "exports/x", options, "X", index="index.json") as export:
            assert run.folder.exists("exports/x/index.json") == (level == 2)
            export.put("a.txt", b"a")
            assert not run.folder.exists("exports/x/index.json")
            assert not run.folder.exists("exports/x/LOSSES.txt")
            export.write("index.json", b"{}")


def test_png_bytes_of_a_wrong_type_is_an_error():
    with pytest.raises(Exception, match=r"(?i)png|imencode"):
        png_bytes(np.zeros((2, 2, 5), np.uint8))


def test_min_score_leaves_out_segments_and_counts_them(tmp_path):
    run = make_run(tmp_path, awkward_scenes())
    for exporter in OTHER:
        exporter.export(run, exporter.Options(min_score=0.65))
        kept = sum(
            row["mean_prob"] >= 0.65 for s in RunReader(run).shards() for row in s.segments()
        )
        text = _read(run, f"{exporter.FOLDER}/LOSSES.txt")
        assert f"{kept}  segments" in text
        assert "segments left out by score" in text
    assert len(READERS["labelme"](run)) == kept
    assert len(READERS["panoptic"](run)) == kept


@pytest.mark.parametrize("exporter", [labelme, yolo_seg])
def test_copy_images_counts_those_that_are_missing(exporter, tmp_path):
    run = make_run(tmp_path, awkward_scenes())
    (tmp_path / "photos" / "empty.jpg").unlink()
    exporter.export(run, exporter.Options(copy_images=True))
    folder = f"{exporter.FOLDER}/images" if exporter is yolo_seg else exporter.FOLDER
    for scene in awkward_scenes():
        twin = exporter is yolo_seg and scene.path.startswith("a b/hole #1")
        name = scene.path + Path(scene.path).suffix if twin else scene.path
        copy, photo = f"{folder}/{name}", tmp_path / "photos" / scene.path
        assert run.folder.exists(copy) == photo.exists()
        if photo.exists():
            assert run.folder.read_bytes(copy) == photo.read_bytes()
    text = _read(run, f"{exporter.FOLDER}/LOSSES.txt")
    assert "1  photographs that cannot be read any more" in text
    assert "1  of the images turned by EXIF" in text


NO_IMAGES = {
    "a.png": b"<html><img src=x></html>",
    "b.png": b"root:x:0:0:root:/root:/bin/bash\n",
    "c.png": b"PK\x03\x04" + bytes(60),
    "d.png": b"",
    "e.png": b"\x89PNG\r\n\x1a\n" + bytes(60),
    "f.png": b"%PDF-1.7\n",
    "g.png": b"MZ" + bytes(200),
}


@pytest.mark.parametrize("exporter", [labelme, yolo_seg])
def test_only_images_are_copied(exporter, tmp_path):
    scenes = [Scene(name, label_map(1)) for name in (*NO_IMAGES, "huge.png", "plain.png")]
    run = make_run(tmp_path, scenes)
    for name, content in NO_IMAGES.items():
        (tmp_path / "photos" / name).write_bytes(content)
    (tmp_path / "photos/huge.png").write_bytes(png_bomb())
    exporter.export(run, exporter.Options(copy_images=True))
    folder = f"{exporter.FOLDER}/images/" if exporter is yolo_seg else f"{exporter.FOLDER}/"
    copies = [scene.path for scene in scenes if run.folder.exists(f"{folder}{scene.path}")]
    assert copies == ["plain.png"]
    text = _read(run, f"{exporter.FOLDER}/LOSSES.txt")
    assert "7  photographs whose file is no image that can be decoded" in text
    assert "1  photographs that are too large" in text
    assert all(name in text for name in NO_IMAGES)


def _damage_shard(run: RunFolder, shard: int) -> tuple[Path, bytes]:
    file = Path(run.folder.uri, run.done()[shard].files["annotations"].name)
    data = file.read_bytes()
    file.write_bytes(b"x" * len(data))
    return file, data


@pytest.mark.parametrize("exporter", OTHER)
def test_interrupted_export_with_other_options_has_no_index_and_no_losses(exporter, tmp_path):
    run = make_run(tmp_path, odd_scenes())
    exporter.export(run, exporter.Options())
    folder = exporter.FOLDER
    whole = {name: run.folder.read_bytes(name) for name in run.folder.list(folder)}
    file, data = _damage_shard(run, 2)
    with pytest.raises(RunFolderError):
        exporter.export(run, exporter.Options(**OTHER[exporter]))
    left = {name.removeprefix(f"{folder}/") for name in run.folder.list(folder)}
    assert not left & {"LOSSES.txt", INDEX.get(exporter)}
    file.write_bytes(data)
    exporter.export(run, exporter.Options())
    assert {name: run.folder.read_bytes(name) for name in run.folder.list(folder)} == whole


@pytest.mark.parametrize("exporter", OTHER)
def test_export_removes_files_of_images_that_are_not_annotated_any_more(exporter, tmp_path):
    scenes = [Scene(f"images/{n}.jpg", label_map(n)) for n in range(4)]
    scenes += [Scene("images/2.png", label_map(5)), Scene("images/3.tif", np.ones((4, 5), int))]
    run = make_run(tmp_path, scenes, RunSpec(shard_size=2))
    photo = "exports/yolo_seg/images/images/2.jpg"  # put there by a user
    run.folder.atomic_write(photo, b"photo")
    exporter.export(run, exporter.Options())
    before = set(run.folder.list(exporter.FOLDER))
    run.folder.delete("done/00001.json")
    run.folder.delete("done/00002.json")
    exporter.export(run, exporter.Options())
    after = set(run.folder.list(exporter.FOLDER))
    assert len(before - after) == 4
    assert not after - before
    assert run.folder.exists(photo)
    assert {name for name in after if "/0." in name or "/1." in name} < after


@pytest.mark.parametrize("exporter", ALL)
def test_export_of_an_unfinished_run_warns(exporter, tmp_path, caplog):
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(1,)))
    exporter.export(run, exporter.Options())
    assert "3 images of the run are not annotated yet" in caplog.text


def test_losses_of_every_format_name_the_options(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    for exporter in ALL:
        exporter.export(run, exporter.Options(min_score=0.25))
        lines = run.folder.read_bytes(f"{exporter.FOLDER}/LOSSES.txt").decode().splitlines()
        assert lines[1].startswith("Options: ")
        assert "min_score=0.25" in lines[1]


def test_kinds_of_which_the_review_left_nothing_out_are_not_listed_as_lost(tmp_path):
    run = make_run(tmp_path, odd_scenes()[:2])
    accepted = {"image_id": f"id-{odd_scenes()[0].path}", "action": "accept", "at_s": 1.7e9}
    ReviewLog(run).append([ReviewDecision.model_validate(accepted)])
    with Export(run, "exports/x", Options(), "X"):
        pass
    text = _read(run, "exports/x/LOSSES.txt")
    assert "masks: merged" in text
    assert text.endswith("Lost in this export:\n- nothing\n")
