import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import ovseg_core as ov
from ovseg_core.decision.image_rows import ImageMasks
from ovseg_core.rle.encode import encode_rle
from schemas.records import Annotation
from schemas.score_columns import SCORE_COLUMNS


@pytest.fixture(scope="module")
def result(segmenter, scenes) -> ov.Prediction:
    paths, labels = scenes
    return segmenter(paths[2], labels)


def test_masks_and_label_map_show_the_same(result):
    assert result.masks.shape == (len(result.segments), *result.size_hw)
    assert result.masks.dtype == bool
    painted = np.zeros(result.size_hw, np.uint16)
    for segment, mask in zip(result.segments, result.masks, strict=True):
        assert mask.sum() == segment.area_px
        assert result.labels[segment.category_id - 1] == segment.label
        painted[mask] = segment.category_id
    np.testing.assert_array_equal(painted, result.label_map)


def test_coco_is_read_by_pycocotools(result, tmp_path, capsys):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(result.to_coco(image_id=7)))
    coco = COCO(file)
    assert coco.imgs[7]["width"] == result.size_hw[1]
    for number, segment in enumerate(result.segments, start=1):
        np.testing.assert_array_equal(coco.annToMask(coco.anns[number]).astype(bool), segment.mask)
        assert coco.cats[coco.anns[number]["category_id"]]["name"] == segment.label


def test_every_label_has_a_score_found_or_not(result):
    assert tuple(result.scores) == result.labels
    assert all(0 <= score <= 1 for score in result.scores.values())
    assert 0 <= result.review_priority <= 1


def test_a_notebook_shows_the_masks_over_the_image(result):
    height, width = result.size_hw
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert shown.size == (3 * width, 3 * height), (
            "names on so small an image would be unreadable"
        )
        assert np.asarray(shown).tolist() == np.asarray(result.plot()).tolist()
    assert result.plot(max_side_px=width - 16).width == width - 16
    assert f"{width} x {height}" in repr(result)
    assert "score=" in repr(result.segments[0])
    assert "rle" not in repr(result.segments[0])  # a wall of text


def test_an_image_without_masks(segmenter):
    empty = segmenter(np.full((20, 31, 3), 128, np.uint8), ["red solid star"])
    assert empty.segments == ()
    assert empty.masks.shape == (0, 20, 31)
    assert empty.to_coco()["annotations"] == []
    assert empty.plot().size == (20 * 31, 20 * 20)
    assert empty.plot(max_side_px=15).size == (15, 9)
    assert "no masks" in repr(empty)


def test_a_large_image_keeps_its_size_and_a_speck_is_named_below_it():
    speck = np.zeros((240, 360), np.uint8)
    speck[4:6, 4:6] = 1
    masks = ImageMasks((_instance(0, 0.9, speck),), (), 0.5)
    pixels = np.full((240, 360, 3), 200, np.uint8)
    shown = ov.Prediction("", ("cat",), (240, 360), masks, pixels).plot()
    assert shown.width == 360
    assert 240 < shown.height < 290


def _instance(index: int, score: float, mask: np.ndarray) -> Annotation:
    rle = encode_rle(mask.astype(np.uint8), mask.shape)[1]
    place = {"label": "cat", "category_id": 1, "segment_index": index, "kind": "instance"}
    size = {"height": mask.shape[0], "width": mask.shape[1]}
    facts = {"rle_counts": rle.counts, "area_px": rle.area_px, "bbox_xywh": rle.bbox_xywh}
    columns = {**dict.fromkeys(SCORE_COLUMNS, score), "num_components": 1}
    return Annotation(image_id="", **place, **size, **facts, **columns)


def test_instances_of_a_label_are_outlined_one_by_one_and_things_in_coco():
    left, right = np.zeros((24, 36), bool), np.zeros((24, 36), bool)
    left[4:20, 4:20], right[4:20, 18:32] = True, True  # they overlap
    rows = _instance(0, 0.9, left), _instance(1, 0.4, right)
    masks = ImageMasks(rows, (), 0.5)
    pixels = np.full((240, 360, 3), 200, np.uint8)
    shown = ov.Prediction("", ("cat",), (24, 36), masks, pixels)
    np.testing.assert_array_equal(shown.label_map, (left | right).astype(np.uint16))
    np.testing.assert_array_equal(shown.masks, [left, right])
    assert {segment.kind for segment in shown.segments} == {"instance"}
    assert shown.to_coco()["categories"] == [
        {"id": 1, "name": "cat", "supercategory": "", "isthing": 1}
    ]
    picture = np.asarray(shown.plot()).astype(int)
    # The border of the upper one, in the other, is darker than both.
    assert picture[50, 199].sum() < min(picture[50, 150].sum(), picture[50, 250].sum())
