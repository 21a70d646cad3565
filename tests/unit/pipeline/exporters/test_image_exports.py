"""Formats with a file for each image: names, numbers, photographs, losses."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.evaluation import truth
from pipeline.evaluation.evaluate import EvaluationRules, evaluate
from pipeline.exporters import fiftyone, labelme, panoptic, semantic_png, yolo_seg
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, awkward_scenes, make_run, odd_scenes
from tests.helpers.exported_masks import READERS, stem_file


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, awkward_scenes())


def _read(run: RunFolder, name: str) -> str:
    return run.folder.read_bytes(name).decode()


def _label_maps(run: RunFolder) -> dict[str, np.ndarray]:
    shards = RunReader(run).shards(("path", "height", "width"))
    return {image["path"]: found for shard in shards for image, found in shard.label_maps()}


def test_label_images_with_background_are_a_truth_of_their_run(run):
    semantic_png.export(run, semantic_png.Options(background=True))
    folder = f"{run.folder.uri}/exports/semantic_png/labels"
    report = evaluate(run, folder, EvaluationRules())
    assert report.miou == 1.0
    assert report.num_images == len(awkward_scenes())
    opened = truth.open_truth(folder, LABELS)
    for path, found in _label_maps(run).items():
        np.testing.assert_array_equal(opened.label_map(path), found)


def test_label_images_of_many_labels_have_16_bits(tmp_path):
    labels = tuple(f"word {number}" for number in range(300))
    seen = np.array([[0, 1, 256], [255, 299, 300]], np.uint16)
    run = make_run(tmp_path, [Scene("a.jpg", seen)], RunSpec(labels=labels))
    semantic_png.export(run, semantic_png.Options())
    picture = Image.open(io.BytesIO(run.folder.read_bytes("exports/semantic_png/labels/a.png")))
    np.testing.assert_array_equal(np.array(picture), [[65535, 0, 255], [254, 298, 299]])
    classes = json.loads(_read(run, "exports/semantic_png/classes.json"))
    assert classes == {"classes": list(labels), "ignore": 65535, "bits": 16}
    semantic_png.export(run, semantic_png.Options(background=True))
    report = evaluate(run, f"{run.folder.uri}/exports/semantic_png/labels", EvaluationRules())
    found = {label.name: label.truth_px for label in report.labels if label.truth_px}
    assert (report.miou, found["word 254"]) == (1.0, 1), "255 is a label here"


@pytest.mark.parametrize(("background", "expected"), [(False, "8"), (True, "16")])
def test_the_highest_number_stays_free_for_what_was_not_found(background, expected, tmp_path):
    labels = tuple(f"word {number}" for number in range(255))
    run = make_run(
        tmp_path, [Scene("a.jpg", np.full((2, 3), 255, np.uint16))], RunSpec(labels=labels)
    )
    semantic_png.export(run, semantic_png.Options(background=background))
    classes = json.loads(_read(run, "exports/semantic_png/classes.json"))
    assert str(classes["bits"]) == expected


def test_low_scores_are_not_found_and_are_counted(run):
    for exporter in (semantic_png, panoptic, labelme, yolo_seg):
        exporter.export(run, exporter.Options(min_score=0.65))
        kept = sum(
            row["mean_prob"] >= 0.65 for s in RunReader(run).shards() for row in s.segments()
        )
        text = _read(run, f"{exporter.FOLDER}/LOSSES.txt")
        assert f"{kept}  segments" in text
        assert "segments left out by score" in text
    assert len(READERS["labelme"](run)) == kept
    assert len(READERS["panoptic"](run)) == kept


def test_panoptic_regions_are_things_and_class_masks_are_stuff(run):
    for segments, isthing in (("class", 0), ("components", 1)):
        panoptic.export(run, panoptic.Options(segments=segments))
        dataset = json.loads(_read(run, "exports/panoptic/panoptic.json"))
        assert {category["isthing"] for category in dataset["categories"]} == {isthing}
        assert [a["image_id"] for a in dataset["annotations"]] == [
            i["id"] for i in dataset["images"]
        ]
        assert dataset["annotations"][-2]["segments_info"] == []
    assert len(READERS["panoptic"](run)) > 20


def _yolo_masks(run: RunFolder, path: str, size_hw: tuple[int, int], cut_off: bool) -> np.ndarray:
    """Read a label file as Ultralytics does, or with coordinates rounded."""
    painted = np.zeros(size_hw, np.uint8)
    for line in _read(run, _yolo_file(run, path)).splitlines():
        label, *numbers = line.split()
        corners = np.array(numbers, float).reshape(-1, 2)
        assert len(corners) >= 3
        assert corners.min() >= 0
        assert corners.max() <= 1
        pixels = corners * size_hw[::-1]
        whole = np.trunc(pixels) if cut_off else np.round(pixels)
        cv2.fillPoly(painted, [whole.astype(np.int32)], int(label) + 1)
        assert np.ptp(pixels, axis=0).min() > 0, "a region without extent"
    return painted


def _yolo_file(run: RunFolder, path: str) -> str:
    if path.startswith("images/"):  # where Ultralytics looks: the last `images` becomes `labels`
        return f"exports/yolo_seg/images/labels/{Path(path).stem}.txt"
    return stem_file(run, "exports/yolo_seg/labels", path, ".txt")


@pytest.mark.parametrize("cut_off", [True, False])
def test_yolo_lines_draw_every_region_but_for_holes(run, cut_off):
    yolo_seg.export(run, yolo_seg.Options(tolerance_px=0))
    content = yaml.safe_load(_read(run, "exports/yolo_seg/data.yaml"))
    assert content == {"train": "images", "val": "images", "names": dict(enumerate(LABELS))}
    for path, found in _label_maps(run).items():
        if path == "a b/hole #1.png":  # noise: regions lie in each other's holes
            continue
        expected = found.astype(np.uint8)
        if "hole" in path:
            expected[4:25, 6:40] = 1
        drawn = _yolo_masks(run, path, found.shape, cut_off)
        np.testing.assert_array_equal(drawn, expected, path)
    text = _read(run, "exports/yolo_seg/LOSSES.txt")
    assert "masks with holes filled" in text
    assert "masks whose outline has an IoU under 0.95" in text


def test_yolo_lines_are_regions_and_an_image_without_segments_has_an_empty_file(run):
    yolo_seg.export(run, yolo_seg.Options())
    lines = sum(
        len(_read(run, name).splitlines())
        for name in run.folder.list("exports/yolo_seg")
        if name.endswith(".txt") and "LOSSES" not in name
    )
    shards = RunReader(run).shards()
    assert lines == sum(row["num_components"] for s in shards for row in s.segments())
    assert _read(run, "exports/yolo_seg/labels/empty.txt") == ""


def test_yolo_leaves_small_regions_out_when_asked_and_counts_them(run):
    yolo_seg.export(run, yolo_seg.Options(min_area_px=12, tolerance_px=0))
    lines = expected = 0
    for path, found in _label_maps(run).items():
        lines += len(_read(run, _yolo_file(run, path)).splitlines())
        for label in range(1, len(LABELS) + 1):
            mask = (found == label).astype(np.uint8)
            rims, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            for rim, node in zip(rims, () if tree is None else tree[0], strict=True):
                filled = cv2.fillPoly(np.zeros(mask.shape), [rim], (1,))
                expected += int(node[3] < 0 and filled.sum() >= 12)
    assert lines == expected > 0
    assert "regions left out by size" in _read(run, "exports/yolo_seg/LOSSES.txt")


@pytest.mark.parametrize("exporter", [labelme, yolo_seg])
def test_photographs_are_copied_when_asked_and_those_gone_are_counted(exporter, run, tmp_path):
    (tmp_path / "photos" / "empty.jpg").unlink()
    exporter.export(run, exporter.Options(copy_images=True))
    folder = f"{exporter.FOLDER}/images" if exporter is yolo_seg else exporter.FOLDER
    for scene in awkward_scenes():
        copy, photo = f"{folder}/{scene.path}", tmp_path / "photos" / scene.path
        assert run.folder.exists(copy) == photo.exists()
        if photo.exists():
            assert run.folder.read_bytes(copy) == photo.read_bytes()
    text = _read(run, f"{exporter.FOLDER}/LOSSES.txt")
    assert "1  photographs that cannot be read any more" in text
    assert "1  of the images are turned by EXIF" in text


def test_labelme_masks_carry_score_and_group(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    labelme.export(run, labelme.Options(segments="components"))
    document = json.loads(_read(run, "exports/labelme/50%20off.json"))
    assert {shape["shape_type"] for shape in document["shapes"]} == {"mask"}
    assert {shape["group_id"] for shape in document["shapes"]} == {0, 1, 2}
    assert all(shape["description"].startswith("score 0.") for shape in document["shapes"])
    assert document["imageData"] is None


def test_the_loader_of_fiftyone_is_the_one_in_the_docs(run):
    fiftyone.export(run, fiftyone.Options())
    loader = _read(run, "exports/fiftyone/load.py")
    compile(loader, "load.py", "exec")
    shown = Path(__file__, "../../../../../docs/exports.md").resolve().read_text(encoding="utf-8")
    code = loader[loader.index("dataset = ") : loader.index("if __name__")]
    assert code in shown
    assert len(code.splitlines()) < 10
