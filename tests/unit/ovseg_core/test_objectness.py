"""What objectness sources share."""

from typing import Any

import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.objectness import build_objectness, by_shape
from schemas.config import NamedOptions
from tests.helpers.tiny_models import random_image, tiny_backbones

CPU = torch.device("cpu")


def test_by_shape_batches_images_of_one_size_and_keeps_the_order() -> None:
    seen: list[int] = []

    def mean(pixels_B3HW: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels_B3HW))
        return pixels_B3HW.float().mean(dim=(1, 2, 3))

    images = [random_image(seed, *size) for seed, size in enumerate([(4, 6), (6, 4), (4, 6)])]
    means = by_shape(images, CPU, mean)
    assert sorted(seen) == [1, 2]
    torch.testing.assert_close(torch.stack(means), torch.stack([i.float().mean() for i in images]))


def source(name: str, backbones: Backbones | None = None, **options: Any) -> Any:
    part = NamedOptions(name=name, options=options)
    return build_objectness(part, backbones or tiny_backbones())


@pytest.mark.parametrize("name", ["found", "found_bkg"])
def test_max_side_px_reduces_large_images(name: str) -> None:
    image = random_image(0, 60, 90)
    small, whole, free = (source(name, max_side_px=limit).maps([image])[0] for limit in (45, 90, 0))
    assert small.shape == (30, 45)
    assert whole.shape == (60, 90)
    assert torch.equal(whole, free)
