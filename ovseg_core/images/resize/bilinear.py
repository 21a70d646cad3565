"""PyTorch's bilinear resize, separated by axis, so that it can be computed band by band.

The resize of one axis is a sparse matrix with two entries per row, its taps. Columns are gathered
once; rows are a small dense product per band, which also takes the mean over several maps.

Shapes: K maps, h w their sizes, R rows of a band, W columns of the result.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

Rows = slice | Tensor
"""A band of rows, or int64 (R,) some rows, ascending."""


class Taps(NamedTuple):
    """The resize of one axis: `out[i] = lerp(x[low[i]], x[high[i]], weight[i])`.

    Attributes:
        low: int64, one per target pixel.
        high: int64, one per target pixel.
        weight: float32 in [0, 1), one per target pixel.
    """

    low: Tensor
    high: Tensor
    weight: Tensor

    def matrix(self, band: Rows) -> tuple[slice, Tensor]:
        """Return the source pixels of a band of target pixels, and the band's matrix over them."""
        low, high, weight = self.low[band], self.high[band], self.weight[band]
        source = slice(int(low[0]), int(high[-1]) + 1)
        matrix = torch.zeros(len(low), source.stop - source.start)
        matrix.scatter_(1, (low - source.start)[:, None], 1 - weight[:, None])
        matrix.scatter_add_(1, (high - source.start)[:, None], weight[:, None])
        return source, matrix

    def whole(self, num_in: int) -> Tensor:
        """Return the matrix of all target pixels over all source pixels."""
        source, matrix = self.matrix(slice(0, len(self.low)))
        whole = torch.zeros(len(self.low), num_in)
        whole[:, source] = matrix
        return whole

    def at(self, pixels: Tensor) -> "Taps":
        """Return the taps of some target pixels."""
        return Taps(self.low[pixels], self.high[pixels], self.weight[pixels])


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
        self._levels = levels
        self._rows = [bilinear_taps(level.shape[1], size_hw[0]) for level in levels]
        self._columns = [bilinear_taps(level.shape[2], size_hw[1]) for level in levels]

    @cached_property
    def _wide(self) -> list[Tensor]:
        # Columns are resized once, for all bands.
        return [
            _at_columns(level.float(), taps)
            for level, taps in zip(self._levels, self._columns, strict=True)
        ]

    def rows(self, band: Rows, maps: slice = slice(None)) -> Tensor:
        """Return a band of rows of all maps or some, float32 (K, R, W)."""
        products = [taps.matrix(band) for taps in self._rows]
        parts = [wide[maps, rows] for wide, (rows, _) in zip(self._wide, products, strict=True)]
        return _mean([matrix for _, matrix in products], parts)

    def few_rows(self, band: Rows) -> Tensor:
        """Return the same as `rows`, bit by bit; cheaper where few bands are needed."""
        products = [taps.matrix(band) for taps in self._rows]
        parts = [
            _at_columns(level[:, rows].float(), taps)
            for level, (rows, _), taps in zip(self._levels, products, self._columns, strict=True)
        ]
        return _mean([matrix for _, matrix in products], parts)

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the maps where some rows and some columns cross, float64 (K, rows, columns)."""
        total = None
        for level, row_taps, column_taps in zip(
            self._levels, self._rows, self._columns, strict=True
        ):
            wide = _at_columns(level.double(), column_taps.at(columns))
            low, high, weight = (t.to(level.device) for t in row_taps.at(rows))
            part = wide[:, low].lerp_(wide[:, high], weight[:, None].double())
            total = part if total is None else total.add_(part)
        if total is None:
            raise ValueError("expected at least one map, got none")
        return total if len(self._levels) == 1 else total.div_(len(self._levels))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights of patches at the rows (H, P) and at the columns (W, P)."""
        sizes = [level.shape[1:] for level in self._levels]
        rows = [taps.whole(size[0]) for taps, size in zip(self._rows, sizes, strict=True)]
        columns = [taps.whole(size[1]) for taps, size in zip(self._columns, sizes, strict=True)]
        return torch.cat(rows, dim=1), torch.cat(columns, dim=1)


def _mean(matrices: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    matrix = torch.cat(list(matrices), dim=1) / len(parts)
    together = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
    return matrix.to(parts[0].device) @ together


def _at_columns(maps: Tensor, taps: Taps) -> Tensor:
    """Return maps (K, h, w) at other columns (K, h, W)."""
    low, high, weight = (t.to(maps.device) for t in taps)
    lines = maps.flatten(0, 1)  # several times as fast as to select along a third axis
    wide = lines.index_select(1, low).lerp_(lines.index_select(1, high), weight.to(maps.dtype))
    return wide.unflatten(0, maps.shape[:2])
