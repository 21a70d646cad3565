"""Learned position tables at other grids than they were trained on.

The published methods follow different rules, and the results differ visibly, so the rule is a
choice of the caller. The table in the model is read, never written.
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
"""Grids kept at once: photographs come in few shapes, and a table for a large one is megabytes."""


class PositionTable:
    """A position table that can be read at any grid; readings are cached by rule and grid.

    Args:
        table_LC: prefix rows, then the grid's rows in row-major order.
        grid_hw: the grid that the table was trained on.
        num_prefix: number of rows before the grid's (class token, registers).
    """

    def __init__(self, table_LC: Tensor, grid_hw: tuple[int, int], num_prefix: int = 1) -> None:
        """Keep a reference to the table."""
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
        """`at(rule, (h, w))` -> (prefix + h * w, C): the table read at a grid."""

    def _interpolate(self, rule: PositionInterpolation, grid_hw: tuple[int, int]) -> Tensor:
        if grid_hw == self._grid_hw:
            return self._table_LC
        prefix = self._table_LC[: self._num_prefix]
        grid = self._table_LC[self._num_prefix :].float()
        grid = grid.reshape(1, *self._grid_hw, -1).permute(0, 3, 1, 2)
        resized = _resize(grid, self._grid_hw, rule, grid_hw)
        rows = resized[0].flatten(1).T.to(prefix.dtype)
        return torch.cat([prefix, rows])


def _resize(
    grid: Tensor, source_hw: tuple[int, int], rule: PositionInterpolation, grid_hw: tuple[int, int]
) -> Tensor:
    if rule == "scale01":
        # The official code avoids a rounding error by + 0.1; the factor, not the size, then sets
        # where the samples lie, so this is not the rule `size`.
        factor = tuple((to + 0.1) / of for to, of in zip(grid_hw, source_hw, strict=True))
        return F.interpolate(grid, scale_factor=factor, mode="bicubic")
    if rule == "bilin":
        return F.interpolate(grid, size=grid_hw, mode="bilinear", align_corners=False)
    return F.interpolate(grid, size=grid_hw, mode="bicubic", antialias=rule == "antialias")
