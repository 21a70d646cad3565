"""Augmentation of whole batches as tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shift_and_flip(images: Tensor, rng: torch.Generator, reach_px: int = 3) -> Tensor:
    """Shift each image by up to ``reach_px`` (the border is repeated) and flip half of them.

    Args:
        images: (B, C, H, W) float.
        rng: draws shifts and flips.
        reach_px: largest shift.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, [reach_px] * 4, mode="replicate")
    dy = torch.randint(2 * reach_px + 1, (count, 1), generator=rng)
    dx = torch.randint(2 * reach_px + 1, (count, 1), generator=rng)
    rows = dy + torch.arange(height)
    columns = dx + torch.arange(width)
    mirror = torch.rand(count, 1, generator=rng) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def light_and_noise(images: Tensor, rng: torch.Generator, strength: float = 1.0) -> Tensor:
    """Brightness, contrast and noise, (B, 3, H, W) float in [0, 1] -> the same."""
    count = len(images)
    contrast = 1 + 0.25 * strength * (2 * torch.rand(count, 1, 1, 1, generator=rng) - 1)
    bright = 0.12 * strength * (2 * torch.rand(count, 1, 1, 1, generator=rng) - 1)
    sigma = 0.03 * strength * torch.rand(count, 1, 1, 1, generator=rng)
    noise = torch.randn(images.shape, generator=rng) * sigma
    return ((images - 0.5) * contrast + 0.5 + bright + noise).clamp_(0, 1)


def channel_mix(images: Tensor, mixed: Tensor, rng: torch.Generator) -> Tensor:
    """Give the marked images false colours: a random 3 x 3 mix, one in five grey, some inverted.

    This cuts the tie between colour and shape: without it a colour that never met a shape votes
    that shape down, and held-out pairs fail.

    Args:
        images: (B, 3, H, W) in [0, 1].
        mixed: (B,) bool.
        rng: draws the mixes.
    """
    count = len(images)
    matrix = torch.randn(count, 3, 3, generator=rng)
    grey = torch.rand(count, generator=rng) < 0.2
    matrix = torch.where(grey[:, None, None], matrix[:, :1].expand(-1, 3, -1), matrix)
    matrix = matrix / matrix.abs().sum(2, keepdim=True)
    gain = 0.8 + 0.6 * torch.rand(count, 1, 1, generator=rng)
    mean = images.mean((2, 3), keepdim=True)
    out = torch.einsum("bij,bjhw->bihw", matrix * gain, images - mean)
    out = (out + 0.3 + 0.4 * torch.rand(count, 3, 1, 1, generator=rng)).clamp_(0, 1)
    return torch.where(mixed[:, None, None, None], out, images)
