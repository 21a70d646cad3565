"""Regions of an image from the likeness of CLIP's patches (CLIPtrase; methods.md 8).

The numbers beside the lines are the steps there. Shapes: B images, L = 1 + N tokens (class token
first), H heads, d head width, C = H * d, N = h * w patches, G clusters, S pixels along a side.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.resize.bilinear import MeanMap

NOISE = -1
_ENLARGED = 4
_MEDIAN_SIDE = 7
_BAND_ELEMENTS = 1 << 22
"""Of the enlarged prototypes of one band of rows: 16 MB."""


def recovered_correlation(*tokens_BHLd: Tensor) -> Tensor:
    """Return the mean cosine of tokens (B, L, L) over heads and over what is given of them (1).

    Args:
        tokens_BHLd: queries, keys and values of a block.
    """
    # The cosines of the heads add up when the heads' unit vectors are laid end to end.
    units_BLC = [F.normalize(one, dim=-1).transpose(1, 2).flatten(2) for one in tokens_BHLd]
    joined_BLC = torch.cat(units_BLC, dim=-1)
    return joined_BLC @ joined_BLC.transpose(1, 2) / (tokens_BHLd[0].shape[1] * len(units_BLC))


def denoised(correlation_BLL: Tensor) -> Tensor:
    """Return the likeness of patches (B, N, N) over that of the class token, not negative (4)."""
    return (correlation_BLL[:, 1:, 1:] - correlation_BLL[:, :1, 1:]).clamp(min=0)


def density(
    num_patches: int, eps: float | None = None, min_samples: int | None = None
) -> tuple[float, int]:
    """Return DBSCAN's (eps, min_samples): what is given, else the published for so many patches.

    The authors give (0.7, 3) for 14 x 14 patches and (1.1, 7) for 21 x 21. Other numbers follow the
    power law through both distances, and a 64th of the patches; at least two.
    """
    exponent = math.log(1.1 / 0.7) / math.log(21**2 / 14**2)
    return (
        eps or 0.7 * (num_patches / 14**2) ** exponent,
        min_samples or max(round(num_patches / 64), 2),
    )


def cluster(rows_NM: Tensor, eps: float, min_samples: int) -> NDArray[np.intp]:
    """Return each row's cluster (N) by DBSCAN with Euclidean distance (5); -1 is noise.

    Args:
        rows_NM: likeness of each patch to the others, on the CPU.
        eps: largest distance of neighbours.
        min_samples: neighbours of a core point, itself among them.
    """
    from sklearn.cluster import DBSCAN  # slow to import, and few methods need it

    return DBSCAN(eps=eps, min_samples=min_samples).fit(rows_NM.numpy()).labels_


def prototypes(rows_NM: Tensor, clusters_N: NDArray[np.intp], grid_hw: tuple[int, int]) -> Tensor:
    """Return the mean row of each cluster as a map, enlarged four times (G, 4 h, 4 w) (5, 6).

    Args:
        rows_NM: likeness of each patch to all, M = N = h * w.
        clusters_N: as `cluster` gives them, at least one not noise.
        grid_hw: the patches' grid.
    """
    means_GN = torch.stack(
        [rows_NM[torch.from_numpy(clusters_N == g)].mean(0) for g in range(clusters_N.max() + 1)]
    )
    maps_Ghw = means_GN.unflatten(1, grid_hw)[None]
    return F.interpolate(maps_Ghw, scale_factor=float(_ENLARGED), mode="bilinear")[0]


def median_filtered(maps_Ghw: Tensor) -> Tensor:
    """Return the median of each 7 x 7 neighbourhood; maps are mirrored, the rim repeated (6).

    SciPy's `median_filter` with its mode `reflect`, in a third of its time.
    """
    reach, middle = _MEDIAN_SIDE // 2, _MEDIAN_SIDE**2 // 2
    filtered = []
    for map_hw in maps_Ghw.numpy():
        padded = np.pad(map_hw, reach, mode="symmetric")
        near = sliding_window_view(padded, (_MEDIAN_SIDE, _MEDIAN_SIDE)).reshape(-1, middle * 2 + 1)
        near.partition(middle, axis=1)
        filtered.append(near[:, middle].reshape(map_hw.shape))
    return torch.from_numpy(np.stack(filtered))


def region_map(maps_Ghw: Tensor, size_hw: tuple[int, int], patch_px: int) -> Tensor:
    """Return the highest map at each pixel of an image after a bilinear resize, int32 (H, W) (6).

    Args:
        maps_Ghw: four times as fine as the patches.
        size_hw: of the image.
        patch_px: the maps cover the image padded to whole patches of this side, which is cut off
            again (of an odd remainder the larger part behind); 0: they cover the image as it is.
    """
    fine_hw = maps_Ghw.shape[1:]
    padded_hw = [side * patch_px // _ENLARGED for side in fine_hw] if patch_px else size_hw
    enlarged = MeanMap([maps_Ghw], (padded_hw[0], padded_hw[1]))
    top, left = ((side - kept) // 2 for side, kept in zip(padded_hw, size_hw, strict=True))
    step = max(_BAND_ELEMENTS // (len(maps_Ghw) * padded_hw[1]), 1)
    bottom = top + size_hw[0]
    bands = (enlarged.rows(slice(y, min(y + step, bottom))) for y in range(top, bottom, step))
    winners = [band.max(dim=0).indices[:, left : left + size_hw[1]].int() for band in bands]
    return torch.cat(winners)
