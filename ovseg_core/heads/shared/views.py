"""Training images brought to a side. Shapes: H W pixels, S the side."""

import numpy as np
import torch
from PIL import Image as Pillow

from ovseg_core.images.batch import Image


def short_side(image: Image, side_px: int) -> Image:
    """Return uint8 (3, H, W) resized so that its short side is `side_px` (Pillow's bilinear)."""
    height, width = image.shape[1:]
    factor = side_px / min(height, width)
    return _resized(image, (max(int(height * factor), side_px), max(int(width * factor), side_px)))


def squashed(image: Image, side_px: int) -> Image:
    """Return uint8 (3, S, S), the aspect lost (Pillow's bilinear)."""
    return _resized(image, (side_px, side_px))


def _resized(image: Image, size_hw: tuple[int, int]) -> Image:
    if tuple(image.shape[1:]) == size_hw:
        return image
    picture = Pillow.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    resized = picture.resize((size_hw[1], size_hw[0]), Pillow.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
