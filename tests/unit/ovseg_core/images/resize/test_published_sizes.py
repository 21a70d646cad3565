"""Resize rules, padding and windows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg_core.dense.windows import window_boxes
from ovseg_core.images.resize.published_sizes import (
    limit_side,
    limited_size,
    mmseg_size,
    pad_br,
    resize_linear,
    squash_nearest,
)
from tests.helpers.tiny_models import random_image

sides = st.integers(1, 900)


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((480, 640), 448, (448, 597)),
        ((640, 480), 448, (597, 448)),
        ((300, 6000), 448, (102, 2048)),  # the long side is the limit
        ((1, 1), 448, (448, 448)),
        ((10, 100_000), 448, (1, 2048)),  # never below a pixel
    ],
)
def test_mmseg_size(size: tuple[int, int], short: int, expected: tuple[int, int]) -> None:
    assert mmseg_size(size, short) == expected


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((480, 640), 672, (480, 640)),
        ((3000, 4000), 672, (504, 672)),
        ((20_000, 10), 672, (672, 1)),
        ((3000, 4000), 0, (3000, 4000)),
    ],
)
def test_limited_size(size: tuple[int, int], limit: int, expected: tuple[int, int]) -> None:
    assert limited_size(size, limit) == expected


def test_resizes_have_the_size_and_keep_a_uniform_grey() -> None:
    image = torch.full((3, 40, 70), 77, dtype=torch.uint8)
    for resized in (resize_linear(image, (20, 35)), limit_side(image, 35)):
        assert resized.shape == (3, 20, 35)
        assert resized.dtype == torch.uint8
        assert (resized == 77).all()
    assert resize_linear(image, (40, 70)) is image
    assert limit_side(image, 70) is image


def test_limit_side_averages_areas() -> None:
    image = torch.zeros((3, 4, 6), dtype=torch.uint8)
    image[:, :, ::2] = 200
    assert (limit_side(image, 3) == 100).all()


def test_squash_nearest_keeps_existing_pixels() -> None:
    image = random_image(0, 6, 9)
    squashed = squash_nearest(image[None], 3)[0]
    assert torch.equal(squashed, image[:, ::2, ::3])


def test_pad_br_appends_zeros_at_the_right_and_the_bottom() -> None:
    images = torch.ones((2, 3, 5, 8))
    padded = pad_br(images, 8)
    assert padded.shape == (2, 3, 8, 8)
    assert padded[:, :, :5].eq(1).all()
    assert padded[:, :, 5:].eq(0).all()
    assert pad_br(padded, 8) is padded


@given(sides, sides, st.integers(1, 300), st.integers(1, 300))
def test_windows_cover_the_image_and_stay_inside(h: int, w: int, crop: int, stride: int) -> None:
    stride = max(min(stride, crop), max(h, w) // 20 + 1)
    crop = max(crop, stride)
    covered = torch.zeros((h, w), dtype=torch.bool)
    for y1, x1, y2, x2 in window_boxes((h, w), crop, stride):
        assert 0 <= y1 < y2 <= h
        assert 0 <= x1 < x2 <= w
        assert (y2 - y1, x2 - x1) == (min(crop, h), min(crop, w))
        covered[y1:y2, x1:x2] = True
    assert covered.all()
