"""The nearest-neighbour resize by axis equals PyTorch's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovseg_core.images.resize.nearest import nearest_counts, nearest_source, to_size


@pytest.mark.parametrize("size_hw", [(4, 6), (9, 13), (3, 2), (1, 1), (40, 24)])
def test_to_size_equals_pytorchs_nearest(size_hw: tuple[int, int]) -> None:
    label_map = np.random.default_rng(0).integers(0, 9, (8, 12)).astype(np.uint8)
    expected = F.interpolate(torch.from_numpy(label_map)[None, None], size_hw, mode="nearest")
    assert np.array_equal(to_size(label_map, size_hw), expected[0, 0].numpy())


@pytest.mark.parametrize(("num_in", "num_out"), [(5, 13), (13, 5), (1, 4), (7, 7)])
def test_nearest_counts_are_the_target_pixels_of_each_source_pixel(
    num_in: int, num_out: int
) -> None:
    counts = nearest_counts(num_in, num_out)
    assert counts.sum() == num_out
    assert np.array_equal(np.repeat(np.arange(num_in), counts), nearest_source(num_in, num_out))
