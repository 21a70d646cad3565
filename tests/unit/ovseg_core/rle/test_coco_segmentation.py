"""Masks of COCO files, sound and damaged; a damaged one must not become another mask."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from ovseg_core.rle.coco_segmentation import (
    compress_segmentation,
    decode_segmentation,
    encode_mask,
    parse_size_hw,
)

SIZE = (40, 56)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_compressed_and_plain_run_lengths_give_the_same_mask(mask):
    size = list(mask.shape)
    text = encode_mask(mask)
    np.testing.assert_array_equal(
        decode_segmentation({"size": size, "counts": text}, mask.shape), mask
    )
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    plain = np.diff([0, *edges, mask.size]).tolist()
    np.testing.assert_array_equal(
        decode_segmentation({"size": size, "counts": plain}, mask.shape), mask
    )
    assert compress_segmentation({"size": size, "counts": plain}, mask.shape) == text


@given(arrays(bool, (4, 5)), st.lists(st.integers(0, 20), max_size=4))
def test_empty_runs_change_nothing(mask, places):
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    plain = np.diff(sorted([0, *edges, 20, *places, *places])).tolist()
    assert compress_segmentation({"size": [4, 5], "counts": plain}, (4, 5)) == encode_mask(mask)


def test_polygons_are_what_pycocotools_draws():
    corners = [[-4.0, -4.0, 70.5, -3.0, 30.0, 20.5], [5, 30, 9, 30, 9, 35, 5, 35]]
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(corners, *SIZE)))
    line = [1.0, 1.0, 9.0, 9.0]  # of two corners, which is no box
    np.testing.assert_array_equal(decode_segmentation([line, *corners], SIZE), drawn > 0)
    assert not decode_segmentation([line], SIZE).any()


NO_MASKS = [
    {"size": [40, 56], "counts": ""},
    {"size": [40, 56], "counts": "12"},
    {"size": [40, 56], "counts": "o"},
    {"size": [40, 56], "counts": "garbage!!"},
    {"size": [40, 56], "counts": "é"},
    {"size": [40, 56], "counts": 7},
    {"size": [40, 56], "counts": [1, 2, 3]},
    {"size": [40, 56], "counts": [0, 99999]},
    {"size": [40, 56], "counts": [-5, 2245]},
    {"size": [40, 56], "counts": [5, float("nan")]},
    {"size": [40, 56], "counts": [float("inf"), 2240]},
    {"size": [40, 56], "counts": [1e300, 2240]},
    {"size": [56, 40], "counts": [0, 2240]},
    {"counts": [0, 2240]},
    [[float("nan")] * 6],
    [[float("inf")] * 6],
    [[1e9, 1, 2, 1e9, 3, 4]],
    [[1, 2, 3, 4, 5, 6, 7]],
    [1, 2, 3, 4, 5, 6],
    [[0, 0, 56, 40] * 40_000],
    ["polygon"],
    [],
]


@pytest.mark.parametrize("segmentation", NO_MASKS, ids=lambda value: str(value)[:40])
def test_damaged_segmentations_are_refused(segmentation):
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        decode_segmentation(segmentation, SIZE)


@pytest.mark.parametrize(
    "sides", [(0, 5), (-3, 5), ("40", 56), (None, 5), (4.5, 6), (10**6, 10**6), (float("inf"), 1)]
)
def test_damaged_sizes_are_refused(sides):
    with pytest.raises((ValueError, OverflowError)):
        parse_size_hw(*sides)
    assert parse_size_hw(40.0, 56) == SIZE


def test_outlines_of_all_polygons_of_a_mask_count_together():
    """Each takes memory at the same time, and so does each corner, however near the next one."""
    zigzag = [x for place in range(300) for x in (0, 2 * place, 3999, 2 * place + 1)]
    assert compress_segmentation([zigzag], (4000, 4000))
    dot = [2.0, 2.0] * (1 << 22)
    for polygons in ([zigzag] * 4, [[*dot, 3, 3]]):
        with pytest.raises(ValueError, match="outlines of at most"):
            compress_segmentation(polygons, (4000, 4000))


@pytest.mark.parametrize("side", [True, "480", None, math.nan, 1e400, -4, 0, 2**31, [7], 4.5])
def test_sides_that_are_no_numbers_of_pixels_are_refused(side):
    with pytest.raises((ValueError, OverflowError)):
        parse_size_hw(side, 4)
