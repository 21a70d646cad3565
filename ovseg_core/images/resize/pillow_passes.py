"""Pillow's resize of whole images by a stated rule, the same under every version of Pillow.

Pillow resizes in two passes and rounds to uint8 after each, so that the order of the passes changes
grey levels. Pillow up to 12 always resizes the width first; 13 chooses. Here the rule of 13 is
written out and Pillow resizes one axis at a time, which all its versions do alike.
"""

import numpy as np
import torch
from PIL import Image as PillowImage

from ovseg_core.images.batch import Image

BILINEAR = PillowImage.Resampling.BILINEAR
BICUBIC = PillowImage.Resampling.BICUBIC


def resize_in_passes(
    image_3HW: Image, size_hw: tuple[int, int], kernel: PillowImage.Resampling
) -> Image:
    """Resize uint8 (3, H, W) on the CPU to any size as Pillow 13 does.

    Calls Pillow, as the weight matrices of `pillow_bicubic` would need too much memory for very
    long images.
    """
    height, width = image_3HW.shape[1:]
    if (height, width) == size_hw:
        return image_3HW
    picture = PillowImage.fromarray(image_3HW.permute(1, 2, 0).contiguous().numpy())
    if _height_first((height, width), size_hw):
        passes = (width, size_hw[0]), (size_hw[1], size_hw[0])
    else:
        passes = (size_hw[1], height), (size_hw[1], size_hw[0])
    for size in passes:
        if size != picture.size:
            picture = picture.resize(size, kernel)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def centre_square(image_3HW: Image, side_px: int) -> Image:
    """Return an image as CLIP's own preprocessing makes it, uint8 (3, side, side).

    The short side is resized to `side_px` by Pillow's bicubic kernel, then the centre is cut out.
    """
    height, width = image_3HW.shape[1:]
    short_px = min(height, width)
    size_hw = (side_px * height // short_px, side_px * width // short_px)
    top, left = (round((length - side_px) / 2) for length in size_hw)
    resized = resize_in_passes(image_3HW, size_hw, BICUBIC)
    return resized[:, top : top + side_px, left : left + side_px]


def _height_first(size_hw: tuple[int, int], target_hw: tuple[int, int]) -> bool:
    """Return whether the height is resized before the width.

    It is where the image loses more than twice as many rows as columns: less work.
    """
    lost_rows, lost_columns = size_hw[0] - target_hw[0], size_hw[1] - target_hw[1]
    return lost_rows > max(2 * lost_columns, 0)
