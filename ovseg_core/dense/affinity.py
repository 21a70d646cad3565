"""Affinities of patches, and pooling by them (CLIP-DINOiser; docs/methods.md 5.1).

Shapes: B images, N patches = h * w, C and D channels, h w patches of the affinity's grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-6
"""Keeps the division finite, as in the authors' code."""


def cosine_affinity(map_BChw: Tensor) -> Tensor:
    """Return the cosine of every pair of positions (B, N, N), in [-1, 1], symmetric.

    A position without any feature has cosine 0 to all, itself included.
    """
    return token_affinity(map_BChw.flatten(2).transpose(1, 2))


def token_affinity(tokens_BNC: Tensor) -> Tensor:
    """Return the cosine of every pair of tokens (B, N, N); see `cosine_affinity`."""
    unit_BNC = F.normalize(tokens_BNC, dim=2)
    return unit_BNC @ unit_BNC.transpose(1, 2)


def threshold_affinity(affinity_BNN: Tensor, threshold: float) -> Tensor:
    """Return the affinity with entries below the threshold set to 0."""
    return affinity_BNN.masked_fill(affinity_BNN < threshold, 0)


def guided_pooling(features_BDhw: Tensor, affinity_BNN: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Pool a feature map by an affinity, on the affinity's grid; see `pool_tokens`.

    Args:
        features_BDhw: any grid; resized bilinearly to the affinity's.
        affinity_BNN: not negative.
        grid_hw: the affinity's grid, N = h * w.

    Returns:
        (B, D, h, w) on the affinity's grid.

    Raises:
        ValueError: the grid is not the affinity's.
    """
    if affinity_BNN.shape[-1] != grid_hw[0] * grid_hw[1]:
        raise ValueError(
            f"expected an affinity (B, N, N) of the grid {grid_hw}, N = {grid_hw[0] * grid_hw[1]}, "
            f"got {tuple(affinity_BNN.shape)}"
        )
    if tuple(features_BDhw.shape[2:]) != grid_hw:
        features_BDhw = F.interpolate(features_BDhw, size=grid_hw, mode="bilinear")
    pooled_BND = pool_tokens(features_BDhw.flatten(2).transpose(1, 2), affinity_BNN)
    return pooled_BND.transpose(1, 2).unflatten(2, grid_hw)


def pool_tokens(tokens_BND: Tensor, affinity_BNN: Tensor) -> Tensor:
    """Return each token's mean over all (B, N, D), weighted by its row of the affinity.

    F+_p = sum_q A_pq F_q / (sum_q A_pq + 1e-6). A token whose row is 0 everywhere keeps its own
    feature.
    """
    total_BN1 = affinity_BNN.sum(dim=2, keepdim=True)
    pooled_BND = affinity_BNN @ tokens_BND / (total_BN1 + _EPSILON)
    return torch.where(total_BN1 > 0, pooled_BND, tokens_BND)
