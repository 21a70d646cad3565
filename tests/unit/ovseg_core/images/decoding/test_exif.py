"""Stored frames become displayed ones as Pillow turns them."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from ovseg_core.images.decoding.exif import (
    inverse_orientation,
    is_orientation,
    swaps_sides,
    upright_image,
    upright_mask,
)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_does(orientation: int) -> None:
    mask = np.random.default_rng(orientation).integers(0, 2, (5, 7)) > 0
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    assert np.array_equal(upright_mask(mask, orientation), expected > 0)
    assert np.array_equal(np.asarray(upright_image(picture, orientation)), expected)
    back = upright_mask(expected > 0, inverse_orientation(orientation))
    assert np.array_equal(back, mask)
    assert swaps_sides(orientation) == (expected.shape == (7, 5))


@pytest.mark.parametrize("value", [0, 1, 9, -3, "6", None])
def test_other_values_are_no_turn(value: object) -> None:
    assert not is_orientation(value)
