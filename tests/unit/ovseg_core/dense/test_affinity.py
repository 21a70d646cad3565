"""Affinities and guided pooling, against the formula for single patches."""

import pytest
import torch

from ovseg_core.dense.affinity import cosine_affinity, guided_pooling, threshold_affinity


def random_maps(seed: int = 0) -> torch.Tensor:
    return torch.randn((2, 6, 3, 4), generator=torch.Generator().manual_seed(seed))


def test_cosine_affinity_of_all_pairs_in_scan_order() -> None:
    maps = random_maps()
    affinity = cosine_affinity(maps)
    one, other = maps[1, :, 1, 3], maps[1, :, 2, 0]
    expected = torch.dot(one, other) / (one.norm() * other.norm())
    torch.testing.assert_close(affinity[1, 7, 8], expected)
    torch.testing.assert_close(affinity, affinity.transpose(1, 2))
    torch.testing.assert_close(affinity.diagonal(dim1=1, dim2=2), torch.ones(2, 12))


def test_threshold_affinity_drops_entries_below_the_threshold() -> None:
    affinity = torch.tensor([[[1.0, 0.2, 0.19, -0.5]]])
    assert threshold_affinity(affinity, 0.2).tolist() == [[[1.0, pytest.approx(0.2), 0.0, 0.0]]]


def test_guided_pooling_is_the_weighted_mean() -> None:
    features, affinity = random_maps(1), cosine_affinity(random_maps(2)).clamp(min=0)
    pooled = guided_pooling(features, affinity, (3, 4))
    weights = affinity[0, 5]
    rows = features[0].flatten(1)
    expected = (rows * weights).sum(1) / (weights.sum() + 1e-6)
    torch.testing.assert_close(pooled[0, :, 1, 1], expected)


def test_guided_pooling_resizes_features_to_the_affinitys_grid() -> None:
    features = random_maps(3)
    eye = torch.eye(6 * 8).expand(2, -1, -1)
    pooled = guided_pooling(features, eye, (6, 8))
    enlarged = torch.nn.functional.interpolate(features, size=(6, 8), mode="bilinear")
    torch.testing.assert_close(pooled, enlarged, atol=1e-5, rtol=1e-5)


def test_guided_pooling_keeps_the_feature_of_an_empty_row() -> None:
    """A position whose feature is 0 has affinity 0 with all, itself included."""
    guide = random_maps(4)
    guide[0, :, 1, 2] = 0
    affinity = threshold_affinity(cosine_affinity(guide), 0.2)
    assert affinity[0, 6].sum() == 0
    features = random_maps(5)
    pooled = guided_pooling(features, affinity, (3, 4))
    torch.testing.assert_close(pooled[0, :, 1, 2], features[0, :, 1, 2])
    assert torch.isfinite(pooled).all()


def test_guided_pooling_refuses_another_grid() -> None:
    with pytest.raises(
        ValueError, match=r"expected an affinity \(B, N, N\) of the grid \(2, 4\), N = 8"
    ):
        guided_pooling(random_maps(), torch.ones(2, 12, 12), (2, 4))
