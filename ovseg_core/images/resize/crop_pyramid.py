"""Square crops of several sizes, as CLIP-DIY looks at an image (Wysoczanska et al., WACV 2024).

Shapes: B images, N crops of all scales, S crops along a side, P side of the squashed image, R side
of a resized crop, Q text rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_core.images.resize.pillow_bicubic import bicubic_crops, crop_grid


@dataclass(frozen=True)
class CropPyramid:
    """Square crops of several sizes.

    Attributes:
        side_px: of the squashed image.
        scales: sides of the crops in pixels.
        stride_divisor: crops of side s are s // stride_divisor apart.
    """

    side_px: int
    scales: tuple[int, ...]
    stride_divisor: int

    def check(self) -> None:
        """Check that the crops fit.

        Raises:
            ValueError: a crop is larger than the image or has no stride.
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
        """Return the crops' scores on the crops' grids, one (B, Q, S, S) for each size."""
        sides = [
            crop_grid(self.side_px, scale, scale // self.stride_divisor) for scale in self.scales
        ]
        per_scale = scores_BNQ.split([side * side for side in sides], dim=1)
        return [
            part_BSQ.transpose(1, 2).unflatten(2, (side, side))
            for side, part_BSQ in zip(sides, per_scale, strict=True)
        ]


CLIP_DIY = CropPyramid(side_px=256, scales=(256, 128, 64), stride_divisor=2)
"""The published crops, 59 of them."""
