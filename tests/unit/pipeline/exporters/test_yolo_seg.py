from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipeline.exporters import yolo_seg
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, awkward_scenes, make_run
from tests.helpers.exported_masks import stem_file


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, awkward_scenes())


def _read(run: RunFolder, name: str) -> str:
    return run.folder.read_bytes(name).decode()


def _label_maps(run: RunFolder) -> dict[str, np.ndarray]:
    shards = RunReader(run).shards()
    return {image["path"]: found for shard in shards for image, found in shard.label_maps()}


def _masks(run: RunFolder, path: str, size_hw: tuple[int, int], cut_off: bool) -> np.ndarray:
    """Read a label file as Ultralytics does, or with coordinates rounded."""
    painted = np.zeros(size_hw, np.uint8)
    for line in _read(run, _label_file(run, path)).splitlines():
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


def _label_file(run: RunFolder, path: str) -> str:
    if path.startswith("images/"):  # where Ultralytics looks: the last `images` becomes `labels`
        return f"exports/yolo_seg/images/labels/{Path(path).stem}.txt"
    return stem_file(run, "exports/yolo_seg/labels", path, ".txt")


@pytest.mark.parametrize("cut_off", [True, False])
def test_export_lines_draw_every_region_apart_from_holes(run, cut_off):
    yolo_seg.export(run, yolo_seg.Options(tolerance_px=0))
    content = yaml.safe_load(_read(run, "exports/yolo_seg/data.yaml"))
    assert content == {"train": "images", "val": "images", "names": dict(enumerate(LABELS))}
    for path, found in _label_maps(run).items():
        if path == "a b/hole #1.png":  # noise: regions lie in each other's holes
            continue
        expected = found.astype(np.uint8)
        if "hole" in path:
            expected[4:25, 6:40] = 1
        drawn = _masks(run, path, found.shape, cut_off)
        np.testing.assert_array_equal(drawn, expected, path)
    text = _read(run, "exports/yolo_seg/LOSSES.txt")
    assert "masks with holes filled" in text
    assert "masks whose outline has an IoU under 0.95" in text


def test_export_one_line_per_region_and_an_empty_file_without_segments(run):
    yolo_seg.export(run, yolo_seg.Options())
    lines = sum(
        len(_read(run, name).splitlines())
        for name in run.folder.list("exports/yolo_seg")
        if name.endswith(".txt") and "LOSSES" not in name
    )
    shards = RunReader(run).shards()
    assert lines == sum(row["num_components"] for s in shards for row in s.segments())
    assert _read(run, "exports/yolo_seg/labels/empty.txt") == ""


def test_export_min_area_leaves_out_small_regions_and_counts_them(run):
    yolo_seg.export(run, yolo_seg.Options(min_area_px=12, tolerance_px=0))
    lines = expected = 0
    for path, found in _label_maps(run).items():
        lines += len(_read(run, _label_file(run, path)).splitlines())
        for label in range(1, len(LABELS) + 1):
            mask = (found == label).astype(np.uint8)
            rims, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            for rim, node in zip(rims, () if tree is None else tree[0], strict=True):
                filled = cv2.fillPoly(np.zeros(mask.shape), [rim], (1,))
                expected += int(node[3] < 0 and filled.sum() >= 12)
    assert lines == expected > 0
    assert "regions left out by size" in _read(run, "exports/yolo_seg/LOSSES.txt")


def _ultralytics_label_file(image_file: str) -> str:
    """As `img2label_paths` of ultralytics.data.utils."""
    return "/labels/".join(image_file.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"


TWINS = ("x.jpg", "x.png", "sub/x.jpg", "y.png", "images/x.webp", "v.1.jpg", "v.1.jpg.jpg")


def test_each_copied_photograph_finds_its_own_labels(tmp_path):
    maps = [np.full((6, 9), number % 4, np.uint16) for number in range(len(TWINS))]
    scenes = [Scene(path, labels) for path, labels in zip(TWINS, maps, strict=True)]
    run = make_run(tmp_path, scenes)
    yolo_seg.export(run, yolo_seg.Options(copy_images=True))
    listed = run.folder.list("exports/yolo_seg/images")
    copies = [file for file in listed if not file.endswith(".txt")]
    found = {}
    for file in copies:
        (path,) = (
            scene.path
            for scene in scenes
            if run.folder.read_bytes(file) == (tmp_path / "photos" / scene.path).read_bytes()
            and file.startswith(f"exports/yolo_seg/images/{scene.path}")
        )
        found[path] = _read(run, _ultralytics_label_file(f"/{file}").removeprefix("/"))
    assert set(found) == set(TWINS)
    for scene, labels in zip(scenes, maps, strict=True):
        number = int(labels.max())
        lines = found[scene.path].splitlines()
        assert [line.split()[0] for line in lines] == ([str(number - 1)] if number else [])


def test_photographs_of_an_earlier_export_do_not_stay(tmp_path):
    scenes = [Scene(path, np.ones((6, 9), np.uint16)) for path in ("a.png", "x.jpg", "x.png")]
    run = make_run(tmp_path, scenes)
    for stale in ("images/x.jpg", "images/x.png", "images/mine.png"):
        run.folder.atomic_write(f"exports/yolo_seg/{stale}", b"old")
    yolo_seg.export(run, yolo_seg.Options(copy_images=True))
    kept = {name.rpartition("/")[2] for name in run.folder.list("exports/yolo_seg/images")}
    assert kept == {"a.png", "x.jpg.jpg", "x.png.png", "mine.png"}
    yolo_seg.export(run, yolo_seg.Options())
    assert "2  images whose labels Ultralytics" in _read(run, "exports/yolo_seg/LOSSES.txt")


def test_an_instance_is_one_line_even_in_several_regions(tmp_path):
    size = (40, 60)
    parts, other = np.zeros(size, bool), np.zeros(size, bool)
    parts[4:14, 5:20] = parts[25:36, 30:50] = parts[30:34, 2:9] = True
    other[10:20, 15:28] = True
    drawn = ((1, 0.8, parts), (1, 0.7, other))
    scenes = [Scene(f"{name}.png", np.zeros(size, np.uint16), instances=drawn) for name in "ab"]
    run = make_run(tmp_path, scenes, RunSpec(masks={"segments": "instances"}))
    yolo_seg.export(run, yolo_seg.Options(tolerance_px=0))
    first, second = _read(run, _label_file(run, "a.png")).splitlines()
    for line, mask, least in ((first, parts, 0.9), (second, other, 1.0)):
        painted = np.zeros(size, np.uint8)
        corners = np.array(line.split()[1:], float).reshape(-1, 2) * size[::-1]
        cv2.fillPoly(painted, [np.trunc(corners).astype(np.int32)], 1)
        assert not (mask & ~painted.astype(bool)).any()
        assert mask.sum() / painted.sum() >= least
    losses = _read(run, "exports/yolo_seg/LOSSES.txt")
    assert "2  instances of several regions: joined by thin lines" in losses
