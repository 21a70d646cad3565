"""Interpolation of learned position embeddings to other grids than they were trained on.

The published methods interpolate differently, and the results differ visibly, so the caller
chooses (docs/methods.md 0.3). The embeddings in the model are never changed.

Shapes: L = prefix + h * w rows, C channels.
"""

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PositionInterpolation = Literal["size", "scale01", "bilin", "antialias"]
"""`size`: bicubic to the size (MaskCLIP, CLIP-DINOiser, MAE). `scale01`: bicubic by the factor
(h + 0.1) / g (DINO, FOUND, ProxyCLIP, SCLIP, ClearCLIP). `bilin`: bilinear to the size (CLIP
Surgery). `antialias`: antialiased bicubic to the size (DINOv2 with registers)."""

_CACHED_GRIDS = 16
"""Cached grids: photographs have few shapes, and the table of a large grid takes megabytes."""


class PositionTable:
    """Position embeddings at any grid, cached by interpolation and grid.

    Args:
        table_LC: the trained embeddings: prefix tokens, then the grid in row-major order.
        grid_hw: the grid that they were trained on.
        num_prefix: number of prefix tokens (class token, registers).

    Raises:
        ValueError: the table does not fit the grid.
    """

    def __init__(self, table_LC: Tensor, grid_hw: tuple[int, int], num_prefix: int = 1) -> None:
        rows = grid_hw[0] * grid_hw[1] + num_prefix
        if table_LC.shape[0] != rows:
            raise ValueError(
                f"a grid of {grid_hw} with {num_prefix} prefix rows needs {rows} rows, "
                f"got {table_LC.shape[0]}"
            )
        self._table_LC = table_LC
        self._grid_hw = grid_hw
        self._num_prefix = num_prefix
        self.at = lru_cache(maxsize=_CACHED_GRIDS)(self._interpolate)
        """`at(interpolation, (h, w))` -> (L, C): the embeddings at a grid, in the table's dtype."""

    def _interpolate(
        self, interpolation: PositionInterpolation, grid_hw: tuple[int, int]
    ) -> Tensor:
        if grid_hw == self._grid_hw:
            return self._table_LC
        prefix = self._table_LC[: self._num_prefix]
        grid = self._table_LC[self._num_prefix :].float()
        grid = grid.reshape(1, *self._grid_hw, -1).permute(0, 3, 1, 2)
        if interpolation == "scale01":
            # The official code avoids a rounding error by + 0.1. The factor, not the size, then
            # sets the sample positions, so this differs from `size`.
            factor = tuple((to + 0.1) / of for to, of in zip(grid_hw, self._grid_hw, strict=True))
            resized = F.interpolate(grid, scale_factor=factor, mode="bicubic")
        elif interpolation == "bilin":
            resized = F.interpolate(grid, size=grid_hw, mode="bilinear", align_corners=False)
        else:
            antialias = interpolation == "antialias"
            resized = F.interpolate(grid, size=grid_hw, mode="bicubic", antialias=antialias)
        rows = resized[0].flatten(1).T.to(prefix.dtype)
        return torch.cat([prefix, rows])
