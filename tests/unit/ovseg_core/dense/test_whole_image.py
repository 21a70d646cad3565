"""Windows merged into one grid: positions, averages, and attention over the whole image."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.whole_image import merge_windows
from ovseg_core.dense.windows import SlidingWindows
from ovseg_core.images.batch import Image
from tests.helpers.tiny_models import random_image, tiny_backbones
from tests.helpers.window_methods import LAST_BLOCK_METHODS, score_levels

PATCH_PX = 4


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


def trunk_of(patches_1Chw: Tensor) -> TrunkFeatures:
    """Features whose class token is the mean of the patches."""
    patches_1NC = patches_1Chw.flatten(2).mT
    tokens_1LC = torch.cat([patches_1NC.mean(1, keepdim=True), patches_1NC], dim=1)
    return TrunkFeatures(tokens_1LC, (patches_1Chw.shape[2], patches_1Chw.shape[3]))


@pytest.mark.parametrize("grid_hw", [(9, 14), (5, 14), (4, 4), (3, 9)])
def test_merge_windows_restores_a_map_from_aligned_windows(grid_hw: tuple[int, int]) -> None:
    tokens = torch.randn((1, 6, *grid_hw), generator=torch.Generator().manual_seed(0))
    pixels = torch.zeros(3, *(PATCH_PX * side for side in grid_hw))
    sliding = SlidingWindows(5 * PATCH_PX, 2 * PATCH_PX, PATCH_PX, PATCH_PX, "drop")
    grid = sliding.cut(pixels)
    rows, columns = grid.spans
    windows = [
        trunk_of(tokens[:, :, y1 // 4 : y2 // 4, x1 // 4 : x2 // 4])
        for y1, y2 in rows
        for x1, x2 in columns
    ]
    merged = merge_windows(windows, grid, PATCH_PX)
    assert merged.grid_hw == grid_hw
    patches = merged.tokens_BLC[:, 1:].mT.unflatten(2, merged.grid_hw)
    torch.testing.assert_close(patches, tokens)
    classes = torch.cat([window.tokens_BLC[:, :1] for window in windows])
    torch.testing.assert_close(merged.tokens_BLC[:, :1], classes.mean(0, keepdim=True))


@pytest.mark.parametrize("padding", ["drop", "middle", "black", "zeros"])
@pytest.mark.parametrize("size_hw", [(50, 71), (11, 90), (23, 23)])
def test_merge_windows_keeps_constant_maps(size_hw: tuple[int, int], padding: Any) -> None:
    """No cell is left empty and none counts twice, whatever the windows' sides."""
    sliding = SlidingWindows(22, 9, PATCH_PX, PATCH_PX, padding, torch.zeros(3))
    grid = sliding.cut(torch.zeros(3, *size_hw))
    height, width = (side // PATCH_PX for side in grid.windows[0].shape[1:])
    windows = [
        replace(
            trunk_of(torch.full((1, 2, height, width), 7.0)),
            extra_maps={"fine": torch.full((1, 3, 8, 5), 2.0)},
        )
        for _ in grid.windows
    ]
    merged = merge_windows(windows, grid, PATCH_PX)
    torch.testing.assert_close(merged.tokens_BLC, torch.full_like(merged.tokens_BLC, 7.0))
    fine = merged.extra_maps["fine"]
    torch.testing.assert_close(fine, torch.full_like(fine, 2.0))


@pytest.mark.parametrize("name", LAST_BLOCK_METHODS)
def test_global_attention_of_one_window_changes_nothing(name: str, backbones: Backbones) -> None:
    images = [random_image(0, 64, 112), random_image(1, 112, 64)]
    options = {"short_side_px": 64, "window_px": 0}
    apart = score_levels(backbones, images, name, **options)
    merged = score_levels(backbones, images, name, **options, global_attention=True)
    for one, other in zip(apart, merged, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LAST_BLOCK_METHODS)
def test_global_attention_reaches_across_windows(name: str, backbones: Backbones) -> None:
    """The image is one grid instead of many windows, and distant pixels change the scores."""
    sizes = {"short_side_px": 96, "window_px": 48, "stride_px": 32}
    image = random_image(0, 60, 100)
    changed: Image = image.clone()
    changed[:, :, 80:] = 255 - changed[:, :, 80:]
    images = [image, changed]
    before, after = score_levels(backbones, images, name, **sizes, global_attention=True)
    assert before.shape == (5, 6, 10)
    far_left = (before - after)[:, :, :3].abs().max()
    apart = score_levels(backbones, images, name, **sizes)
    if name.startswith("maskclip"):  # under the identity attention tokens keep their own values
        assert far_left < 1e-5
    else:
        assert far_left > 1e-6
    assert torch.equal(apart[0][:, :, :3], apart[1][:, :, :3])
