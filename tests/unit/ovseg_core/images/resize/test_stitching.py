"""Windows read side by side are the published sum over windows divided by their number."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.windows import SlidingWindows, side_by_side, window_boxes
from ovseg_core.images.resize.stitching import Stitch, StitchedMap
from ovseg_core.methods import clearclip
from ovseg_core.segmenter import encode_images
from schemas.errors import ConfigError
from tests.helpers.tiny_models import random_image, tiny_backbones

PATCH = 4
BLACK = -1.5


def patches_of(pixels_B3HW: Tensor) -> Tensor:
    """A network of one convolution, which drops what does not fill a patch."""
    return functional.avg_pool2d(pixels_B3HW.square(), PATCH)


def margins(side: int, padding: str) -> tuple[int, int]:
    """Padding before and behind a side, by the words of `Padding`."""
    missing = -side % PATCH
    if padding == "middle":
        return missing // 2, missing - missing // 2
    return (0, 0) if padding == "drop" else (0, missing)


def plain(image: Tensor, windows: SlidingWindows, size: tuple[int, int]) -> Tensor:
    """The published order of operations, one window at a time."""
    total, hits = torch.zeros_like(image), torch.zeros(image.shape[1:])
    for y1, x1, y2, x2 in window_boxes(image.shape[1:], windows.window_px, windows.stride_px):
        window = image[None, :, y1:y2, x1:x2]
        top, bottom = margins(y2 - y1, windows.padding)
        left, right = margins(x2 - x1, windows.padding)
        value = BLACK if windows.padding == "black" else 0.0
        padded = functional.pad(window, (left, right, top, bottom), value=value)
        # Only padding on both sides is cut off again.
        cut_off = windows.padding == "middle"
        size_hw = padded.shape[2:] if cut_off else window.shape[2:]
        scores = functional.interpolate(patches_of(padded), size_hw, mode="bilinear")[0]
        top, left = (top, left) if cut_off else (0, 0)
        total[:, y1:y2, x1:x2] += scores[:, top : top + y2 - y1, left : left + x2 - x1]
        hits[y1:y2, x1:x2] += 1
    return functional.interpolate((total / hits)[None], size, mode="bilinear")[0]


def cutter(crop: int, stride: int, padding: Any) -> SlidingWindows:
    black = torch.full((3,), BLACK)
    return SlidingWindows(crop, stride, PATCH, PATCH, padding, black, patches_per_forward=40)


def read(windows: SlidingWindows, images: list[Tensor]) -> list[tuple[Tensor, Stitch]]:
    """Each image's patches side by side, and where they lie."""
    grids = [windows.cut(image) for image in images]
    found = []
    for grid, patches in zip(grids, windows.apply(grids, patches_of), strict=True):
        maps = torch.stack(patches)
        found.append((side_by_side(maps, grid.shape), grid.stitch(maps.shape[2:])))
    return found


@pytest.mark.parametrize("padding", ["drop", "middle", "zeros", "black"])
@pytest.mark.parametrize("size", [(70, 45), (30, 30)])
@pytest.mark.parametrize(("crop", "stride"), [(16, 8), (18, 7), (64, 64)])
def test_the_average_is_the_published_one(padding, size, crop, stride):
    windows = cutter(crop, stride, padding)
    images = [random_image(seed, *hw).float() / 99 for seed, hw in enumerate([(41, 53), (27, 60)])]
    for image, (patches, stitch) in zip(images, read(windows, images), strict=True):
        whole = StitchedMap(patches, stitch, size)
        rows = torch.cat([whole.rows(slice(at, at + 5)) for at in range(0, size[0], 5)], dim=1)
        torch.testing.assert_close(rows, plain(image, windows, size), atol=2e-5, rtol=0)


def test_an_image_smaller_than_a_patch_is_padded_to_one():
    windows = cutter(16, 8, "drop")
    images = [torch.ones(3, 1, 22), torch.ones(3, 3, 2)]
    grids = [patches.shape[1:] for patches, _ in read(windows, images)]
    assert grids == [(1, 8), (1, 1)]


def test_every_pixel_has_weights_that_sum_to_one():
    ((_, stitch),) = read(cutter(16, 8, "middle"), [random_image(0, 33, 21).float()])
    for axis, side in ((stitch.rows.matrix, 33), (stitch.columns.matrix, 21)):
        torch.testing.assert_close(axis.sum(dim=1), torch.ones(side))


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


def test_gaps_between_windows_are_refused(backbones: Backbones):
    options = clearclip.Options(window_px=32, stride_px=33)
    with pytest.raises(
        ConfigError, match=r"stride_px: expected at most the window's 32 px, got 33"
    ):
        clearclip.build(options, backbones)


def test_the_block_without_its_residual_is_another(backbones: Backbones):
    images = [random_image(0, 40, 64), random_image(1, 64, 40)]
    bare, kept = (
        encode_images(clearclip.build(clearclip.Options(residual=residual), backbones), images)
        for residual in (False, True)
    )
    for one, other in zip(bare.images, kept.images, strict=True):
        assert (one.dense.patches_BDhw - other.dense.patches_BDhw).abs().max() > 0.1
