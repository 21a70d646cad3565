"""PyTorch's bilinear resize, separated by axis, so that it can be computed band by band.

The resize of one axis is a sparse matrix with two entries per row, its taps. Columns are gathered
once; rows are a small dense product per band, which also takes the mean over several maps.

Shapes: K maps, h w their sizes, R rows of a band, W columns of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Taps:
    """The resize of one axis: `out[i] = lerp(x[low[i]], x[high[i]], weight[i])`.

    Attributes:
        low: int64, one per target pixel.
        high: int64, one per target pixel.
        weight: float32 in [0, 1), one per target pixel.
    """

    low: Tensor
    high: Tensor
    weight: Tensor

    def matrix(self, band: slice) -> tuple[slice, Tensor]:
        """Return the source pixels of a band of target pixels, and the band's matrix over them."""
        low, high, weight = self.low[band], self.high[band], self.weight[band]
        source = slice(int(low[0]), int(high[-1]) + 1)
        matrix = torch.zeros(len(low), source.stop - source.start)
        matrix.scatter_(1, (low - source.start)[:, None], 1 - weight[:, None])
        matrix.scatter_add_(1, (high - source.start)[:, None], weight[:, None])
        return source, matrix


def bilinear_taps(num_in: int, num_out: int) -> Taps:
    """Return the taps of `F.interpolate(mode="bilinear", align_corners=False)` along one axis.

    The source position `(i + 0.5) * in / out - 0.5`, not below 0, is rounded to float32 as
    PyTorch's kernel does.
    """
    scale = torch.tensor(num_in, dtype=torch.float32) / num_out
    position = (scale * (torch.arange(num_out, dtype=torch.float32) + 0.5) - 0.5).clamp_(min=0)
    low = position.to(torch.int64).clamp_(max=num_in - 1)
    return Taps(low, (low + 1).clamp_(max=num_in - 1), position - low)


class MeanMap:
    """The mean of maps (K, h, w) of different sizes after a resize to one size, band by band.

    Args:
        levels: the maps, on one device.
        size_hw: size of the result.
    """

    def __init__(self, levels: Sequence[Tensor], size_hw: tuple[int, int]) -> None:
        # Columns are resized once, for all bands.
        self._wide = [_with_columns(level, size_hw[1]) for level in levels]
        self._taps = [bilinear_taps(level.shape[1], size_hw[0]) for level in levels]

    def rows(self, band: slice, maps: slice = slice(None)) -> Tensor:
        """Return a band of rows of all maps or some, float32 (K, R, W)."""
        products = [taps.matrix(band) for taps in self._taps]
        parts = [wide[maps, rows] for wide, (rows, _) in zip(self._wide, products, strict=True)]
        matrix = torch.cat([matrix for _, matrix in products], dim=1) / len(parts)
        return matrix.to(parts[0].device) @ torch.cat(parts, dim=1)


def _with_columns(level: Tensor, num_columns: int) -> Tensor:
    taps = bilinear_taps(level.shape[2], num_columns)
    low, high, weight = (t.to(level.device) for t in (taps.low, taps.high, taps.weight))
    return level.index_select(2, low).float().lerp_(level.index_select(2, high).float(), weight)
