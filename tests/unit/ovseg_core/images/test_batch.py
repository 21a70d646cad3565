"""Batches that know their images' names."""

import pytest
import torch

from ovseg_core.images.batch import ImageBatch, with_images
from ovseg_core.images.proposal_masks import Proposals
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
    with pytest.raises(ValueError, match="a path for each of the 3 images, got 2"):
        ImageBatch(IMAGES, PATHS[:2])


def test_proposals_belong_to_images() -> None:
    none = Proposals(torch.zeros(0, 2, 2), torch.ones(0))
    one = Proposals(torch.ones(1, 2, 2), torch.ones(1))
    assert ImageBatch(IMAGES, proposals=(none, one, none))[1:].proposals == (one, none)
    with pytest.raises(ValueError, match="a set of proposals for each of the 3 images, got 1"):
        ImageBatch(IMAGES, PATHS, (none,))
