"""Pillow's bicubic resize of whole batches of crops, with equal results.

Pillow resizes in two passes, columns first, and rounds and clamps to uint8 after each. The columns
of a crop do not depend on its row, so they are resized once per column of crops. On a CPU Pillow
does the passes. On a GPU they are matrix products: Pillow's weights are fixed-point integers, and
in float64 every number is an exact integer, so the result equals Pillow's; a single float32 resize
differs by up to 20 grey levels (docs/methods.md 1.2).

Shapes: B images, H W pixels, S crops along a side, P crop side, R output side.
"""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor

from ovseg_core.images.resize.pillow_passes import BICUBIC

_PRECISION_BITS = 22
"""Pillow's fixed point: 32 bits minus 8 of the pixel and 2 of headroom."""
_SUPPORT = 2.0
"""Radius of the cubic kernel in source pixels; larger where the image is reduced."""
_A = -0.5
"""Pillow's cubic parameter."""
_IMAGES_PER_BATCH = 8
"""Limits the float64 intermediates to half a gigabyte of memory."""


def crop_grid(side_px: int, crop_px: int, stride_px: int) -> int:
    """Return the number of crops along a side."""
    return (side_px - crop_px) // stride_px + 1


def bicubic_crops(images_B3HW: Tensor, crop_px: int, stride_px: int, out_px: int) -> Tensor:
    """Take square crops in row-major order and resize each as Pillow's BICUBIC does.

    Args:
        images_B3HW: uint8.
        crop_px: side of a crop.
        stride_px: distance of neighbouring crops.
        out_px: side of the result.

    Returns:
        uint8 (B, S * S, 3, R, R); remainders of a crop at the right and the bottom are dropped.
    """
    if images_B3HW.device.type == "cpu":
        return torch.stack([_by_pillow(it, crop_px, stride_px, out_px) for it in images_B3HW])
    return bicubic_crops_by_products(images_B3HW, crop_px, stride_px, out_px)


def bicubic_crops_by_products(
    images_B3HW: Tensor, crop_px: int, stride_px: int, out_px: int
) -> Tensor:
    """Do what `bicubic_crops` does by matrix products, as on a GPU."""
    weights_PR = _weights(crop_px, out_px, images_B3HW.device)
    batches = images_B3HW.split(_IMAGES_PER_BATCH)
    return torch.cat([_by_products(batch, weights_PR, stride_px) for batch in batches])


def _by_pillow(image_3HW: Tensor, crop_px: int, stride_px: int, out_px: int) -> Tensor:
    """Return the resized crops of one image, uint8 (S * S, 3, R, R)."""
    height, width = image_3HW.shape[1:]
    picture = PillowImage.fromarray(image_3HW.permute(1, 2, 0).contiguous().numpy())
    columns = [
        picture.crop((x, 0, x + crop_px, height)).resize((out_px, height), BICUBIC)
        for x in range(0, width - crop_px + 1, stride_px)
    ]
    crops_NRR3 = np.stack(
        [
            np.asarray(column.crop((0, y, out_px, y + crop_px)).resize((out_px, out_px), BICUBIC))
            for y in range(0, height - crop_px + 1, stride_px)
            for column in columns
        ]
    )
    return torch.from_numpy(crops_NRR3).permute(0, 3, 1, 2)


def _by_products(images_B3HW: Tensor, weights_PR: Tensor, stride_px: int) -> Tensor:
    crop_px, out_px = weights_PR.shape
    columns_B3HSR = images_B3HW.double().unfold(3, crop_px, stride_px) @ weights_PR
    columns_B3HSR.add_(0.5).floor_().clamp_(0, 255)  # Pillow rounds halves up
    bands_B3SQP = columns_B3HSR.flatten(3).unfold(2, crop_px, stride_px)  # Q = S * R
    crops_B3SRQ = weights_PR.T @ bands_B3SQP.transpose(-1, -2)
    crops_B3SRSR = crops_B3SRQ.add_(0.5).clamp_(0, 255).to(torch.uint8).unflatten(-1, (-1, out_px))
    return crops_B3SRSR.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).contiguous()


@lru_cache(maxsize=32)
def _weights(size_in: int, size_out: int, device: torch.device) -> Tensor:
    """Return the weights (size_in, size_out), multiples of 2 ** -22 in float64."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    centres = (torch.arange(size_out, dtype=torch.float64) + 0.5) * scale
    first = (centres - _SUPPORT * stretch + 0.5).trunc().clamp(min=0)
    after = (centres + _SUPPORT * stretch + 0.5).trunc().clamp(max=size_in)
    pixels = torch.arange(size_in, dtype=torch.float64)[:, None]
    weights = _cubic((pixels - centres + 0.5) / stretch)
    weights = torch.where((pixels >= first) & (pixels < after), weights, 0.0)
    fixed = weights / weights.sum(dim=0) * (1 << _PRECISION_BITS)
    rounded = (fixed + torch.where(fixed < 0, -0.5, 0.5)).trunc()
    return (rounded / (1 << _PRECISION_BITS)).to(device)


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
