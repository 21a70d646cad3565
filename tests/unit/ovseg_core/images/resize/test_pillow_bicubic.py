"""The batched resize equals Pillow's, to the grey level, by either way."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_core.images.resize.pillow_bicubic import (
    bicubic_crops,
    bicubic_crops_by_products,
    crop_grid,
)
from tests.helpers.tiny_models import random_image


def _by_pillow(image: torch.Tensor, crop_px: int, stride_px: int, out_px: int) -> np.ndarray:
    height, width = image.shape[1:]
    rows = range(0, height - crop_px + 1, stride_px)
    columns = range(0, width - crop_px + 1, stride_px)
    pixels = image.permute(1, 2, 0).numpy()
    crops = [pixels[y : y + crop_px, x : x + crop_px] for y in rows for x in columns]
    resized = [
        Image.fromarray(np.ascontiguousarray(crop)).resize(
            (out_px, out_px), Image.Resampling.BICUBIC
        )
        for crop in crops
    ]
    return np.stack([np.asarray(one) for one in resized]).transpose(0, 3, 1, 2)


WAYS = pytest.mark.parametrize("crops", [bicubic_crops, bicubic_crops_by_products])
Crops = Callable[[torch.Tensor, int, int, int], torch.Tensor]


@WAYS
@pytest.mark.parametrize(
    ("crop_px", "stride_px", "out_px"),
    [
        (64, 32, 24),  # shrinks
        (16, 8, 24),  # grows
        (32, 32, 32),  # keeps the size, no overlap
        (48, 16, 31),  # odd sizes, stride a third
        (7, 3, 20),  # a remainder is left out
        (1, 1, 3),  # one pixel
    ],
)
def test_crops_equal_pillows(crops: Crops, crop_px: int, stride_px: int, out_px: int) -> None:
    side = 64 if crop_px > 1 else 4
    noise = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    images = torch.stack([random_image(0, side, side), noise])
    ours = crops(images, crop_px, stride_px, out_px)
    side_crops = crop_grid(side, crop_px, stride_px)
    assert ours.shape == (2, side_crops**2, 3, out_px, out_px)
    assert ours.dtype == torch.uint8
    for mine, image in zip(ours, images, strict=True):
        np.testing.assert_array_equal(mine.numpy(), _by_pillow(image, crop_px, stride_px, out_px))


@WAYS
def test_extreme_values_are_clamped_after_each_pass(crops: Crops) -> None:
    """A cubic kernel overshoots at an edge; Pillow clamps between its passes."""
    image = torch.zeros((1, 3, 12, 12), dtype=torch.uint8)
    image[:, :, 4:9, 3:8] = 255
    np.testing.assert_array_equal(
        crops(image, 12, 12, 30)[0].numpy(), _by_pillow(image[0], 12, 12, 30)
    )


def test_crop_grid_of_clip_diy_has_59_crops() -> None:
    assert [crop_grid(256, side, side // 2) for side in (256, 128, 64)] == [1, 3, 7]
