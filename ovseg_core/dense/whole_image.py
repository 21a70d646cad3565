"""The windows of an image merged into one: their tokens on a single grid, for global attention.

The last block then attends over the whole image, while every token was computed at the size that
CLIP was trained on. Not part of the methods' papers (docs/methods.md 14.4).

Shapes: W windows, L = 1 + N tokens, C channels, P patches of all windows along an axis, G cells of
the whole image's grid along an axis.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.dense.windows import WindowGrid, side_by_side
from ovseg_core.images.resize.stitching import Span


def merge_windows(
    windows: Sequence[TrunkFeatures], grid: WindowGrid, cell_px: int
) -> TrunkFeatures:
    """Return the windows of one image as the features of a single large window.

    A cell is the mean of the patches that cover it, weighted by the covered area; the class token
    is the mean of the windows'.

    Args:
        windows: of one window each, in scan order.
        grid: where the windows lie.
        cell_px: side of a cell, that is of CLIP's patches.
    """
    batch = TrunkFeatures.cat(windows)
    merged_hw = _cells(grid, batch.grid_hw, cell_px)

    def merge_tokens(tokens_WLC: Tensor) -> Tensor:
        maps_WChw = tokens_WLC[:, 1:].transpose(1, 2).unflatten(2, batch.grid_hw)
        map_1Chw = _merge_maps(maps_WChw, grid, merged_hw)
        return torch.cat([tokens_WLC[:, :1].mean(0, keepdim=True), map_1Chw.flatten(2).mT], dim=1)

    def merge_extra_map(maps_WChw: Tensor) -> Tensor:
        """Merge maps on a grid of their own, whose cells have another side."""
        height, width = maps_WChw.shape[2:]
        top, bottom = grid.spans[0][0]
        own_cell_px = (bottom - top + sum(grid.margins[0])) / height
        return _merge_maps(maps_WChw, grid, _cells(grid, (height, width), own_cell_px))

    return replace(
        batch,
        tokens_BLC=merge_tokens(batch.tokens_BLC),
        grid_hw=merged_hw,
        ln2={key: merge_tokens(value) for key, value in batch.ln2.items()},
        blocks={key: merge_tokens(value) for key, value in batch.blocks.items()},
        extra_maps={key: merge_extra_map(value) for key, value in batch.extra_maps.items()},
    )


def _cells(grid: WindowGrid, patches_hw: tuple[int, int], cell_px: float) -> tuple[int, int]:
    """Return the rows and columns of cells; an axis of one whole window keeps its patches."""
    rows, columns = (
        patches if len(spans) == 1 and not any(margins) else max(round(spans[-1][1] / cell_px), 1)
        for spans, patches, margins in zip(grid.spans, patches_hw, grid.margins, strict=True)
    )
    return rows, columns


def _merge_maps(maps_WChw: Tensor, grid: WindowGrid, merged_hw: tuple[int, int]) -> Tensor:
    """Return the windows' maps as one (1, C, G, G')."""
    rows_GP, columns_GP = (
        _overlaps(spans, patches, margins, cells).to(maps_WChw)
        for spans, patches, margins, cells in zip(
            grid.spans, maps_WChw.shape[2:], grid.margins, merged_hw, strict=True
        )
    )
    return (rows_GP @ side_by_side(maps_WChw, grid.shape) @ columns_GP.T)[None]


def _overlaps(spans: Sequence[Span], num_patches: int, margins: Span, cells: int) -> Tensor:
    """Return the share of each cell (G) that each patch (P) covers; rows sum to 1."""
    side_px = spans[-1][1]
    edges_G = torch.arange(cells + 1, dtype=torch.float64) * side_px / cells
    steps = torch.arange(num_patches + 1, dtype=torch.float64) / num_patches
    blocks = []
    for start, end in spans:
        padded_px = margins[0] + end - start + margins[1]
        edges_P = (start - margins[0] + steps * padded_px).clamp(0, side_px)
        low = torch.maximum(edges_G[:-1, None], edges_P[None, :-1])
        high = torch.minimum(edges_G[1:, None], edges_P[None, 1:])
        blocks.append((high - low).clamp(min=0))
    covered_GP = torch.cat(blocks, dim=1)
    return (covered_GP / covered_GP.sum(dim=1, keepdim=True)).float()
