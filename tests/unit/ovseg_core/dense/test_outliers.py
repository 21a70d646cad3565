"""Outlier patches: found by their local outlier factor, and filled from their neighbours."""

import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.outliers import fill_outliers, find_outliers, local_outlier_factor
from tests.helpers.tiny_models import random_image, tiny_backbones
from tests.helpers.window_methods import LAST_BLOCK_METHODS, score_levels

GRID = (5, 8)


def patches(seed: int = 0) -> torch.Tensor:
    """Two windows of a dense cloud, with outliers at (1, 2) and, in the second, at (4, 7)."""
    cloud = torch.randn((2, *GRID, 6), generator=torch.Generator().manual_seed(seed))
    cloud[:, 1, 2] += 40
    cloud[1, 4, 7] -= 40
    return cloud.flatten(1, 2)


def test_local_outlier_factor_is_highest_for_outliers() -> None:
    factor = local_outlier_factor(patches(), 10).unflatten(1, GRID)
    assert factor[0].argmax() == 1 * GRID[1] + 2
    assert set(factor[1].flatten().topk(2).indices.tolist()) == {10, 39}
    assert factor.median() < 1.5


def test_find_outliers_takes_the_share_of_each_window() -> None:
    outliers = find_outliers(patches(), 10, 0.05)
    assert outliers.sum(1).tolist() == [2, 2]
    assert outliers[:, 10].all()
    assert outliers[1, 39]


def test_find_outliers_finds_none_in_a_small_window() -> None:
    assert not find_outliers(patches()[:, :10], 10, 0.5).any()
    assert not find_outliers(patches()[:, :1], 10, 0.5).any()


def test_fill_outliers_takes_the_mean_of_neighbours_that_are_none() -> None:
    cloud, outliers = patches(), torch.zeros(2, 40, dtype=torch.bool)
    outliers[0, [10, 11]] = True
    outliers[1, 39] = True
    filled = fill_outliers(cloud, outliers, GRID).unflatten(1, GRID)
    grid = cloud.unflatten(1, GRID)
    around = [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (2, 3)]
    torch.testing.assert_close(filled[0, 1, 2], torch.stack([grid[0][p] for p in around]).mean(0))
    corner = torch.stack([grid[1, 3, 6], grid[1, 3, 7], grid[1, 4, 6]]).mean(0)
    torch.testing.assert_close(filled[1, 4, 7], corner)
    same = ~outliers
    assert torch.equal(filled.flatten(1, 2)[same], cloud[same])


def test_fill_outliers_keeps_an_outlier_among_outliers() -> None:
    cloud = patches()
    assert torch.equal(fill_outliers(cloud, torch.ones(2, 40, dtype=torch.bool), GRID), cloud)


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.mark.parametrize("name", [name for name in LAST_BLOCK_METHODS if name != "sc_clip"])
def test_outlier_repair_changes_few_patches(name: str, backbones: Backbones) -> None:
    images = [random_image(0, 60, 100), random_image(1, 100, 60)]
    options = {"short_side_px": 112, "window_px": 0}
    plain = score_levels(backbones, images, name, **options)
    repaired = score_levels(backbones, images, name, **options, outlier_repair=True)
    for one, other in zip(plain, repaired, strict=True):
        change = (one - other).abs().amax(dim=0)
        assert change.max() > 1e-4
        if name.startswith("maskclip"):  # every patch for itself: 5 % of 7 x 12 change
            assert (change > 1e-6).sum() == 5
