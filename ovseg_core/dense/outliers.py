"""Outlier tokens, which a ViT uses as registers: found by their local density, and repaired.

Steps 2 and 3 of SC-CLIP (docs/methods.md 7b).

Shapes: B windows, N = h * w patches, C trunk width.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures

NEIGHBOURS, SHARE = 30, 0.05
"""SC-CLIP's published number of neighbours and share of outliers (docs/methods.md 7b, step 2)."""


def repair_outliers(trunk: TrunkFeatures) -> TrunkFeatures:
    """Return the features with outlier patches filled from their neighbours (7b, steps 2 and 3)."""
    class_B1C, patches_BNC = trunk.tokens_BLC[:, :1], trunk.tokens_BLC[:, 1:]
    outliers_BN = find_outliers(patches_BNC, NEIGHBOURS, SHARE)
    filled_BNC = fill_outliers(patches_BNC, outliers_BN, trunk.grid_hw)
    return replace(trunk, tokens_BLC=torch.cat([class_B1C, filled_BNC], dim=1))


def local_outlier_factor(patches_BNC: Tensor, num_neighbours: int) -> Tensor:
    """Return the local outlier factor (B, N): density of a patch's neighbours over its own.

    The published reachability distance is always the patch's own distance to its k-th neighbour,
    so the density is 1 / d_k; d is the squared distance.

    Args:
        patches_BNC: N must be larger than k.
        num_neighbours: k, the patch itself excluded.
    """
    distance_BNN = torch.cdist(patches_BNC, patches_BNC).square()
    distance_BNN.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = distance_BNN.topk(num_neighbours, dim=2, largest=False)
    density_BN = 1 / nearest.values[:, :, -1].clamp(min=1e-12)
    batch = torch.arange(len(patches_BNC), device=patches_BNC.device)[:, None, None]
    return density_BN[batch, nearest.indices].mean(dim=2) / density_BN


def find_outliers(patches_BNC: Tensor, num_neighbours: int, share: float) -> Tensor:
    """Return which patches are outliers, bool (B, N): the given share of each window.

    Args:
        patches_BNC: a window of no more patches than neighbours has no outliers.
        num_neighbours: k of the local outlier factor.
        share: of a window's patches, 0 to 1.
    """
    if patches_BNC.shape[1] <= num_neighbours:
        return patches_BNC.new_zeros(patches_BNC.shape[:2], dtype=torch.bool)
    factor_BN = local_outlier_factor(patches_BNC, num_neighbours)
    return factor_BN > torch.quantile(factor_BN, 1 - share, dim=1, keepdim=True)


def fill_outliers(patches_BNC: Tensor, outliers_BN: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Return the patches, each outlier replaced by the mean of its neighbours that are none.

    There are at most eight neighbours; an outlier among outliers stays as it is.
    """
    inlier_B1hw = (~outliers_BN).to(patches_BNC.dtype)[:, None].unflatten(2, grid_hw)
    grid_BChw = patches_BNC.transpose(1, 2).unflatten(2, grid_hw)
    total_BChw, count_B1hw = (
        F.avg_pool2d(one, 3, stride=1, padding=1, divisor_override=1)
        for one in (grid_BChw * inlier_B1hw, inlier_B1hw)
    )
    mean_BNC = (total_BChw / count_B1hw.clamp(min=1)).flatten(2).transpose(1, 2)
    fillable_BN = outliers_BN & (count_B1hw > 0).flatten(1)
    return torch.where(fillable_BN[:, :, None], mean_BNC, patches_BNC)
