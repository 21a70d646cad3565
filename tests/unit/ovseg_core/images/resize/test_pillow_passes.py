"""Whole images are resized by the rule of docs/methods.md 1.2, whatever Pillow is installed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ovseg_core.images.resize.pillow_passes import BICUBIC, BILINEAR, resize_in_passes

Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]
sides = st.integers(1, 60)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(1 - np.abs(x), 0, None)


def _one_axis(
    rows: NDArray[np.uint8], size: int, kernel: Kernel, radius: float
) -> NDArray[np.uint8]:
    """The first axis, by weights of 22 bits in exact integers."""
    scale = len(rows) / size
    stretch = max(scale, 1.0)
    result = []
    for centre in (np.arange(size) + 0.5) * scale:
        first = max(int(centre - radius * stretch + 0.5), 0)
        after = min(int(centre + radius * stretch + 0.5), len(rows))
        weights = kernel((np.arange(first, after) - centre + 0.5) / stretch)
        fixed = weights / weights.sum() * 2**22
        whole = np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int64)
        total = np.tensordot(whole, rows[first:after].astype(np.int64), 1)
        result.append(np.clip((total + 2**21) >> 22, 0, 255))
    return np.array(result, np.uint8)


def _by_the_rule(
    pixels: NDArray[np.uint8], size_hw: tuple[int, int], kernel: Kernel, radius: float
) -> NDArray[np.uint8]:
    lost = pixels.shape[0] - size_hw[0], pixels.shape[1] - size_hw[1]
    axes = (0, 1) if lost[0] > max(2 * lost[1], 0) else (1, 0)
    for axis in axes:
        if pixels.shape[axis] != size_hw[axis]:
            turned = _one_axis(np.moveaxis(pixels, axis, 0), size_hw[axis], kernel, radius)
            pixels = np.moveaxis(turned, 0, axis)
    return pixels


@settings(max_examples=60)
@given(sides, sides, sides, sides, st.booleans(), st.integers(0, 2**32))
def test_any_size_to_any_size_is_the_stated_rule(
    height: int, width: int, to_height: int, to_width: int, is_cubic: bool, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    kernel, radius, name = (_cubic, 2.0, BICUBIC) if is_cubic else (_triangle, 1.0, BILINEAR)
    image = torch.from_numpy(noise).permute(2, 0, 1)
    ours = resize_in_passes(image, (to_height, to_width), name).permute(1, 2, 0).numpy()
    expected = _by_the_rule(noise, (to_height, to_width), kernel, radius)
    assert ours.shape == expected.shape
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    ("size_hw", "target_hw", "is_height_first"),
    [
        ((176, 128), (96, 96), True),  # 80 rows lost, 32 columns
        ((128, 176), (96, 96), False),
        ((100, 100), (80, 90), False),  # twice as many is not more than twice
        ((100, 100), (79, 90), True),
        ((100, 50), (90, 60), True),  # rows lost, columns won
        ((50, 100), (60, 120), False),  # nothing lost
    ],
)
def test_the_axis_that_is_resized_first(
    size_hw: tuple[int, int], target_hw: tuple[int, int], is_height_first: bool
) -> None:
    """Told by the result: the other order gives other grey levels on noise."""
    noise = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), np.uint8)
    image = torch.from_numpy(noise).permute(2, 0, 1)
    middle = (target_hw[0], size_hw[1]) if is_height_first else (size_hw[0], target_hw[1])
    steps = resize_in_passes(resize_in_passes(image, middle, BICUBIC), target_hw, BICUBIC)
    other = (size_hw[0], target_hw[1]) if is_height_first else (target_hw[0], size_hw[1])
    wrong = resize_in_passes(resize_in_passes(image, other, BICUBIC), target_hw, BICUBIC)
    assert torch.equal(resize_in_passes(image, target_hw, BICUBIC), steps)
    assert not torch.equal(steps, wrong)
