import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import ovseg_core as ov


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
        assert shown.size == (width, height)
        assert np.asarray(shown).tolist() == np.asarray(result.plot()).tolist()
    assert max(result.plot(max_side_px=50).size) == 50
    assert f"{width} x {height}" in repr(result)
    assert "score=" in repr(result.segments[0])
    assert "rle" not in repr(result.segments[0])  # a wall of text


def test_an_image_without_masks(segmenter):
    empty = segmenter(np.full((20, 31, 3), 128, np.uint8), ["red solid star"])
    assert empty.segments == ()
    assert empty.masks.shape == (0, 20, 31)
    assert empty.to_coco()["annotations"] == []
    assert empty.plot().size == (31, 20)
    assert "no masks" in repr(empty)
