"""Outliers among patches, and SC-CLIP's choice of blocks."""

import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.outliers import fill_outliers, find_outliers, local_outlier_factor
from ovseg_core.methods.sc_clip import Options, SelfCalibration, build
from schemas.errors import ConfigError
from tests.helpers.tiny_models import random_image, tiny_backbones

GRID = (5, 8)


def patches(seed: int = 0) -> torch.Tensor:
    """Two windows of a dense cloud, with strangers at (1, 2) and, in the second, at (4, 7)."""
    cloud = torch.randn((2, *GRID, 6), generator=torch.Generator().manual_seed(seed))
    cloud[:, 1, 2] += 40
    cloud[1, 4, 7] -= 40
    return cloud.flatten(1, 2)


def test_strangers_have_the_highest_factor() -> None:
    factor = local_outlier_factor(patches(), 10).unflatten(1, GRID)
    assert factor[0].argmax() == 1 * GRID[1] + 2
    assert set(factor[1].flatten().topk(2).indices.tolist()) == {10, 39}
    assert factor.median() < 1.5


def test_each_window_has_its_own_share() -> None:
    outliers = find_outliers(patches(), 10, 0.05)
    assert outliers.sum(1).tolist() == [2, 2]
    assert outliers[:, 10].all()
    assert outliers[1, 39]


def test_a_small_window_is_not_repaired() -> None:
    assert not find_outliers(patches()[:, :10], 10, 0.5).any()
    assert not find_outliers(patches()[:, :1], 10, 0.5).any()


def test_an_outlier_becomes_the_mean_of_its_sound_neighbours() -> None:
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


def test_an_outlier_among_outliers_stays() -> None:
    cloud = patches()
    assert torch.equal(fill_outliers(cloud, torch.ones(2, 40, dtype=torch.bool), GRID), cloud)


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.mark.parametrize(
    "blocks", [{"middle_block": 2}, {"early_block": 9}, {"summed_blocks": (0, 3)}]
)
def test_blocks_that_are_not_there_are_refused(blocks: dict, backbones: Backbones) -> None:
    with pytest.raises(ConfigError, match="reads blocks 0 to 1 of this CLIP's 3, got"):
        build(Options(**blocks), backbones)


@pytest.mark.parametrize("size", [(48, 32), (16, 16)])
def test_equal_patches_have_finite_features(size: tuple[int, int], backbones: Backbones) -> None:
    method = SelfCalibration(backbones.clip, Options(position_rule="size"))
    features = method.finish(method.read(torch.zeros(2, 3, *size)))
    assert torch.isfinite(features).all()


def test_repair_changes_the_features(backbones: Backbones) -> None:
    pixels = torch.stack([random_image(0, 48, 80), random_image(1, 48, 80)]).float()
    methods = (SelfCalibration(backbones.clip, Options(outlier_neighbours=k)) for k in (30, 5))
    kept, repaired = (method.finish(method.read(pixels / 99)) for method in methods)
    assert (kept - repaired).abs().max() > 1e-3
