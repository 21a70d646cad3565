"""Input sizes and resizes of the published methods, with equal results (docs/methods.md 1.2, 1.4).

Shapes: B images, H W pixels.
"""

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.images.batch import Image

MMSEG_LONG_SIDE_PX = 2048
"""Limit of the long side in mmseg's `scale=(2048, s)`."""


def mmseg_size(size_hw: tuple[int, int], short_px: int) -> tuple[int, int]:
    """Return (height, width) by mmseg's rule: short side `short_px`, long side at most 2048.

    The short side is smaller only for very long images, and at least one pixel.
    """
    height, width = size_hw
    factor = min(MMSEG_LONG_SIDE_PX / max(height, width), short_px / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def limited_size(size_hw: tuple[int, int], long_px: int) -> tuple[int, int]:
    """Return the size with a long side of at most `long_px`, aspect kept; 0: unchanged."""
    height, width = size_hw
    longest = max(size_hw)
    if not long_px or longest <= long_px:
        return size_hw
    return max(round(height * long_px / longest), 1), max(round(width * long_px / longest), 1)


def resize_linear(image: Image, size_hw: tuple[int, int]) -> Image:
    """Resize uint8 (3, H, W) as OpenCV's INTER_LINEAR does: no antialias, fixed-point weights."""
    return _cv2_resize(image, size_hw, cv2.INTER_LINEAR)


def limit_side(image: Image, long_px: int) -> Image:
    """Reduce uint8 (3, H, W) to a long side of at most `long_px` by area average; 0: never."""
    height, width = image.shape[1:]
    return _cv2_resize(image, limited_size((height, width), long_px), cv2.INTER_AREA)


def squash_nearest(images_B3HW: Tensor, side_px: int) -> Tensor:
    """Resize images to a square by nearest neighbour, aspect lost (CLIP-DIY's demo notebook)."""
    return F.interpolate(images_B3HW, size=(side_px, side_px), mode="nearest")


def pad_br(images_B3HW: Tensor, multiple: int) -> Tensor:
    """Pad with zeros at the right and the bottom to multiples of `multiple`."""
    height, width = images_B3HW.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images_B3HW, (0, right, 0, bottom)) if bottom or right else images_B3HW


def _cv2_resize(image: Image, size_hw: tuple[int, int], interpolation: int) -> Image:
    if tuple(image.shape[1:]) == size_hw:
        return image
    rows_HW3 = image.permute(1, 2, 0).contiguous().numpy()
    resized_HW3 = cv2.resize(rows_HW3, (size_hw[1], size_hw[0]), interpolation=interpolation)
    return torch.from_numpy(resized_HW3).permute(2, 0, 1)
