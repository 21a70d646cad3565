"""An export over an older one: nothing of it is taken for the new one."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.exporters import coco, labelme, panoptic, semantic_png, yolo_seg
from pipeline.run.folder import RunFolder
from schemas import plugins
from schemas.config import NamedOptions
from schemas.errors import ConfigError, RunFolderError
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run, odd_scenes

INDEX = {semantic_png: "classes.json", panoptic: "panoptic.json", yolo_seg: "data.yaml"}
OTHER = {
    semantic_png: {"background": True},
    panoptic: {"segments": "components"},
    yolo_seg: {"tolerance_px": 0.0},
    labelme: {"segments": "components"},
}


def _damaged(run: RunFolder, shard: int) -> tuple[Path, bytes]:
    file = Path(run.folder.uri, run.done()[shard].files["annotations"].name)
    data = file.read_bytes()
    file.write_bytes(b"x" * len(data))
    return file, data


@pytest.mark.parametrize("exporter", OTHER)
def test_an_interrupted_export_with_other_options_is_not_taken_for_a_whole(exporter, tmp_path):
    run = make_run(tmp_path, odd_scenes())
    exporter.export(run, exporter.Options())
    folder = exporter.FOLDER
    whole = {name: run.folder.read_bytes(name) for name in run.folder.list(folder)}
    file, data = _damaged(run, 2)
    with pytest.raises(RunFolderError):
        exporter.export(run, exporter.Options(**OTHER[exporter]))
    left = {name.removeprefix(f"{folder}/") for name in run.folder.list(folder)}
    assert not left & {"LOSSES.txt", INDEX.get(exporter)}
    file.write_bytes(data)
    exporter.export(run, exporter.Options())
    assert {name: run.folder.read_bytes(name) for name in run.folder.list(folder)} == whole


@pytest.mark.parametrize("exporter", OTHER)
def test_files_of_images_that_the_run_has_lost_are_removed(exporter, tmp_path):
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


@pytest.mark.parametrize("exporter", [*OTHER, coco])
def test_what_is_not_annotated_yet_is_said_at_once(exporter, tmp_path, caplog):
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(1,)))
    exporter.export(run, exporter.Options())
    assert "3 images of the run are not annotated yet" in caplog.text


def test_losses_tell_the_options(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    for exporter in (*OTHER, coco):
        exporter.export(run, exporter.Options(min_score=0.25))
        lines = run.folder.read_bytes(f"{exporter.FOLDER}/LOSSES.txt").decode().splitlines()
        assert lines[1].startswith("Options: min_score=0.25")


@pytest.mark.parametrize("name", ["coco", "yolo_seg"])
@pytest.mark.parametrize("value", [-1, 1e31, float("inf"), float("nan")])
def test_a_tolerance_beyond_all_images_is_refused(name, value):
    part = NamedOptions(name=name, options={"tolerance_px": value})
    with pytest.raises(ConfigError, match="tolerance_px"):
        plugins.read_options("pipeline.exporters", part, "export")


def test_segments_of_no_image_of_their_shard_are_not_left_out_silently(tmp_path, monkeypatch):
    from pipeline.run import reader

    run = make_run(tmp_path, odd_scenes())
    rows = reader.FinishedShard.segments

    def with_a_stranger(shard, columns=None):
        for row in rows(shard, columns):
            yield {**row, "image_id": "stranger"} if row["image_id"] == "id-plain.jpg" else row

    monkeypatch.setattr(reader.FinishedShard, "segments", with_a_stranger)
    with pytest.raises(RunFolderError, match="segments of stranger"):
        coco.export(run, coco.Options())
