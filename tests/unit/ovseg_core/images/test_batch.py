"""Batches that know their images' names."""

import pytest

from ovseg_core.images.batch import ImageBatch, with_images
from tests.helpers.tiny_models import random_image

PATHS = ("a.jpg", "b/c.jpg", "d.png")
IMAGES = tuple(random_image(seed, 4, 6) for seed in range(3))


def test_a_batch_is_a_sequence_and_its_slices_keep_the_paths() -> None:
    batch = ImageBatch(IMAGES, PATHS)
    assert len(batch) == 3
    assert list(batch) == list(IMAGES)
    assert batch[1] is IMAGES[1]
    half = batch[1:]
    assert isinstance(half, ImageBatch)
    assert half.paths == PATHS[1:]


def test_other_pixels_keep_the_paths() -> None:
    other = [random_image(seed, 2, 2) for seed in range(3)]
    assert with_images(ImageBatch(IMAGES, PATHS), other).paths == PATHS
    assert list(with_images(IMAGES, other)) == other


def test_a_name_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 images, 2 paths"):
        ImageBatch(IMAGES, PATHS[:2])
