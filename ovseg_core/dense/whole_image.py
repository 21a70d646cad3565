"""The windows of an image as one: their tokens laid on a single grid, for attention over all of it.

The last block then sees the whole image, while every token was computed at the size that CLIP
knows. Beyond the methods' papers. Shapes: W windows, L = 1 + N tokens, C channels, P patches of all
windows along an axis, G cells of the whole image's grid.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.dense.windows import WindowGrid, side_by_side
from ovseg_core.resize.stitching import Span


def merge_windows(states: Sequence[TrunkFeatures], cut: WindowGrid, patch_px: int) -> TrunkFeatures:
    """Return the windows of one image as the state of a single large one.

    A cell is the mean of the patches that cover it, by the share that they cover; the class token
    is the windows' mean.

    Args:
        states: of each window, in scan order.
        cut: how the image was cut.
        patch_px: side of a cell.
    """
    whole = TrunkFeatures.cat(states)
    grid_hw = _grid(cut, whole.grid_hw, patch_px)

    def tokens(of_WLC: Tensor) -> Tensor:
        maps_WCN = of_WLC[:, 1:].transpose(1, 2)
        map_1Chw = _spliced(maps_WCN.unflatten(2, whole.grid_hw), cut, grid_hw)
        return torch.cat([of_WLC[:, :1].mean(0, keepdim=True), map_1Chw.flatten(2).mT], dim=1)

    return replace(
        whole,
        tokens_BLC=tokens(whole.tokens_BLC),
        grid_hw=grid_hw,
        ln2={key: tokens(value) for key, value in whole.ln2.items()},
        blocks={key: tokens(value) for key, value in whole.blocks.items()},
        extra_maps={key: _spliced_guide(value, cut) for key, value in whole.extra_maps.items()},
    )


def _spliced_guide(maps_WChw: Tensor, cut: WindowGrid) -> Tensor:
    height, width = maps_WChw.shape[2:]
    top, bottom = cut.spans[0][0]
    cell_px = (bottom - top + sum(cut.margins[0])) / height
    return _spliced(maps_WChw, cut, _grid(cut, (height, width), cell_px))


def _grid(cut: WindowGrid, patches_hw: tuple[int, int], cell_px: float) -> tuple[int, int]:
    """Cells of the whole image; an axis of one whole window keeps that window's number."""
    rows, columns = (
        patches if len(spans) == 1 and not any(margins) else max(round(spans[-1][1] / cell_px), 1)
        for spans, patches, margins in zip(cut.spans, patches_hw, cut.margins, strict=True)
    )
    return rows, columns


def _spliced(maps_WChw: Tensor, cut: WindowGrid, grid_hw: tuple[int, int]) -> Tensor:
    """Return (1, C, G, G') of the windows' maps."""
    rows_GP, columns_GP = (
        _overlaps(spans, patches, margins, cells).to(maps_WChw)
        for spans, patches, margins, cells in zip(
            cut.spans, maps_WChw.shape[2:], cut.margins, grid_hw, strict=True
        )
    )
    return (rows_GP @ side_by_side(maps_WChw, cut.grid) @ columns_GP.T)[None]


def _overlaps(spans: Sequence[Span], num_patches: int, margins: Span, cells: int) -> Tensor:
    """Return how much of each cell (G) each patch of all windows (P) covers; rows sum to one."""
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
