"""Silhouettes of the twelve shapes."""

import numpy as np
import pytest

from jobs.demo.shapes import SHAPES, silhouette


@pytest.mark.parametrize("shape", SHAPES)
def test_silhouette_fills_its_tile_without_touching_the_border(shape: str):
    mask = silhouette(shape, 64, 24.0, 0.2)
    assert mask.shape == (64, 64)
    assert 0.1 < mask.mean() < 0.6
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0.0


def test_silhouettes_of_shapes_differ():
    masks = [silhouette(shape, 48, 20.0, 0.0) for shape in SHAPES]
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            overlap = np.minimum(one, other).sum() / np.maximum(one, other).sum()
            assert overlap < 0.9
