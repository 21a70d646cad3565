"""Square crops of several sizes over a square image (CLIP-DIY; methods.md 2).

Shapes: B images, N crops of all sizes, S crops along a side, P side of the image, R of the result,
Q text rows, D joint width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_core.resample import bicubic_crops, crop_grid


@dataclass(frozen=True)
class CropFeatures:
    """What is known of a batch of images by its crops, before the words.

    Attributes:
        crops_BND: pooled embeddings of all crops, scale by scale in scan order, not normalised.
        objectness: foreground probability of each image on the canvas; None without a source.
    """

    crops_BND: Tensor
    objectness: tuple[Tensor, ...] | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.crops_BND)


@dataclass(frozen=True)
class CropPyramid:
    """How the image is cut.

    Attributes:
        side_px: of the image.
        scales: sides of the crops.
        stride_divisor: crops of side s stand s // stride_divisor apart.
    """

    side_px: int
    scales: tuple[int, ...]
    stride_divisor: int

    def check(self) -> None:
        """Refuse crops that do not fit.

        Raises:
            ValueError: says which.
        """
        if max(self.scales) > self.side_px:
            raise ValueError(f"scales: expected crops of 1 to {self.side_px} px, got {self.scales}")
        if min(self.scales) < self.stride_divisor:
            raise ValueError(f"scales: crops of {min(self.scales)} px have no stride")

    def cut(self, squares_B3PP: Tensor, out_px: int) -> Tensor:
        """Return all crops resized as Pillow does, uint8 (B, N, 3, R, R), in scan order."""
        parts = [
            bicubic_crops(squares_B3PP, scale, scale // self.stride_divisor, out_px)
            for scale in self.scales
        ]
        return torch.cat(parts, dim=1)

    def grids(self, scores_BNQ: Tensor) -> list[Tensor]:
        """Return the crops' scores where the crops lie, one (B, Q, S, S) for each size."""
        sides = [
            crop_grid(self.side_px, scale, scale // self.stride_divisor) for scale in self.scales
        ]
        per_scale = scores_BNQ.split([side * side for side in sides], dim=1)
        return [
            part_BSQ.transpose(1, 2).unflatten(2, (side, side))
            for side, part_BSQ in zip(sides, per_scale, strict=True)
        ]
