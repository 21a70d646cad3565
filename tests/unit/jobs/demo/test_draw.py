"""The demo's truth is COCO as pycocotools reads it, and equals the drawn label maps."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from jobs.demo.draw import draw_scenes
from jobs.demo.scenes import all_phrases


# pycocotools 2.0.11 decodes with an __array__ that numpy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_truth_is_coco_and_fits_the_images(tmp_path: Path, capsys) -> None:
    scenes = draw_scenes(tmp_path, 6, seed=3)
    (tmp_path / "truth.json").write_text(json.dumps(scenes.truth))
    coco = COCO(str(tmp_path / "truth.json"))
    capsys.readouterr()
    assert len(coco.imgs) == 6
    assert [coco.cats[i + 1]["name"] for i in range(len(coco.cats))] == list(scenes.labels)
    for image in coco.imgs.values():
        with Image.open(tmp_path / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            assert picture.width != picture.height
        anns = coco.imgToAnns[image["id"]]
        masks = np.stack([coco.annToMask(ann) for ann in anns])
        assert masks.shape[1:] == (image["height"], image["width"])
        assert masks.sum(0).max() == 1
        assert [int(mask.sum()) for mask in masks] == [ann["area"] for ann in anns]


def test_half_of_the_scenes_show_held_out_pairs(tmp_path: Path) -> None:
    scenes = draw_scenes(tmp_path, 8, seed=0)
    assert scenes.seen
    assert scenes.held_out
    assert set(scenes.held_out) <= set(all_phrases(held_out=True))
    assert set(scenes.seen) <= set(all_phrases(held_out=False))
    truth = scenes.truth
    names = {category["id"]: category["name"] for category in truth["categories"]}
    for ann in truth["annotations"]:
        assert (names[ann["category_id"]] in scenes.held_out) == (ann["image_id"] > 4)


def test_truth_by_shape_has_the_same_masks(tmp_path: Path) -> None:
    scenes = draw_scenes(tmp_path, 6, seed=1)
    assert sorted(tmp_path.iterdir()) == sorted(tmp_path.glob("scene_*.png"))

    def masks(truth, last: bool) -> list[tuple[object, ...]]:
        names = {category["id"]: category["name"] for category in truth["categories"]}
        assert len(set(names.values())) == len(names)
        return [
            (one["image_id"], names[one["category_id"]].split()[-1 if last else 0], one["area"])
            for one in truth["annotations"]
        ]

    assert masks(scenes.shape_truth, last=False) == masks(scenes.truth, last=True)


def test_scenes_depend_on_the_seed(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        folder.mkdir()
        draw_scenes(folder, 2, seed)
    first, same, other = ((f / "scene_000.png").read_bytes() for f in folders)
    assert first == same != other
