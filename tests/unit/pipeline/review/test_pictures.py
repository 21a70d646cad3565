"""Pictures for the browser: their size, and how long they are kept."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ovseg_core.rle.encode import encode_rle
from pipeline.review.index import ReviewIndex
from pipeline.review.pictures import (
    MAX_LAYERS,
    MAX_NUMBER,
    Pictures,
    layers,
    number_png,
    thumbnail_size,
)
from pipeline.run.images import RunImages
from schemas.errors import ImageError
from tests.helpers.drawn_runs import (
    RunSpec,
    Scene,
    crowded_run,
    crowded_scene,
    label_map,
    make_run,
)
from tests.helpers.review_server import read_picture


@pytest.fixture
def index(tmp_path) -> ReviewIndex:
    return ReviewIndex(make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)]))


def test_picture_is_made_once_for_all_requests(index):
    pictures = Pictures(index, RunImages(index.run))
    together = threading.Barrier(6)

    def get(_: int) -> bytes:
        together.wait(20)
        return pictures.get(0, "large")

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(get, range(6)))
    assert all(one is made[0] for one in made)


def test_pictures_are_kept_up_to_a_limit(index, tmp_path):
    sizes = [len(Pictures(index, RunImages(index.run)).get(row, "small")) for row in range(3)]
    pictures = Pictures(index, RunImages(index.run), kept_bytes=sum(sizes) - 1)
    _, second, third = (pictures.get(row, "small") for row in (0, 1, 2))
    for file in (tmp_path / "photos").iterdir():
        file.unlink()
    assert (pictures.get(1, "small"), pictures.get(2, "small")) == (second, third)
    with pytest.raises(ImageError, match=r"0\.png"):  # the oldest was dropped
        pictures.get(0, "small")
    too_small = Pictures(index, RunImages(index.run), kept_bytes=1)
    assert too_small.get(1, "segments") == too_small.get(1, "segments")


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [
        ((100, 50), (100, 50)),
        ((4000, 2000), (360, 180)),
        ((1, 9000), (1, 360)),
        ((360, 1), (360, 1)),
    ],
)
def test_thumbnail_size_never_enlarges(size_hw, expected):
    assert thumbnail_size(size_hw, 360) == expected


def test_layers_hold_every_pixel_of_instances_the_smallest_first(tmp_path):
    index = ReviewIndex(crowded_run(tmp_path))
    masks = [mask for _, _, mask in crowded_scene("").instances or ()]
    for row in range(2):
        found = layers(index.segments_of(row), (30, 44))
        assert found.shape == (3, 30, 44)
        for number, mask in enumerate(masks, start=1):
            np.testing.assert_array_equal((found == number).any(axis=0), mask)
        np.testing.assert_array_equal(found[:, 15, 21], [4, 3, 2])  # plant, dog, right cat
        np.testing.assert_array_equal(found[:, 5, 5], [1, 0, 0])
    with Image.open(
        io.BytesIO(Pictures(index, RunImages(index.run)).get(0, "segments"))
    ) as picture:
        pixels = np.array(picture).astype(int)
    assert pixels.shape == (3 * 30, 44, 3)
    assert (pixels[..., 2] == 2).all()  # one less than the layers
    np.testing.assert_array_equal(pixels[..., 0].reshape(3, 30, 44), found)
    assert layers(index.segments_of(2), (12, 20)).shape == (1, 12, 20)


def test_more_instances_at_a_pixel_than_there_are_layers_are_left_out(tmp_path):
    masks = np.zeros((12, 16, 20), bool)
    for number in range(12):
        masks[number, : 4 + number] = True
    drawn = tuple((1, 0.5, mask) for mask in masks)
    scene = Scene("a.png", np.zeros((16, 20), np.uint16), instances=drawn)
    index = ReviewIndex(make_run(tmp_path, [scene], RunSpec(masks={"segments": "instances"})))
    found = layers(index.segments_of(0), (16, 20))
    assert found[:, 0, 0].tolist() == list(range(1, MAX_LAYERS + 1))
    assert found[:, 14, 0].tolist() == [12, *[0] * (MAX_LAYERS - 1)]


@pytest.mark.parametrize("may_overlap", [False, True])
def test_more_masks_than_there_are_numbers_are_left_out(may_overlap):
    def segment(row: int, column: int) -> dict:
        mask = np.zeros((2, 3), np.uint8)
        mask[row, column] = 1
        rle = encode_rle(mask, (2, 3))[1]
        return {"rle_counts": rle.counts, "bbox_xywh": rle.bbox_xywh, "area_px": 1}

    first, last, further = segment(0, 0), segment(0, 2), segment(1, 1)
    segments = [first, *[{**first, "rle_counts": ""}] * (MAX_NUMBER - 2), last, further, further]
    pixels = read_picture(number_png(segments, (2, 3), may_overlap)).astype(int)
    numbers = pixels[..., 0] + 256 * pixels[..., 1]
    np.testing.assert_array_equal(numbers, [[1, 0, MAX_NUMBER], [0, 0, 0]])
