"""Proposals: regions of one image, found without any words or by a method's own; they may overlap.

Shapes: N proposals, K classes with background first, h w pixels of the masks, H W of the image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.images.resize.nearest import SizeHW

INSIDE, OUTSIDE = 1.0, -1.0
"""Values of a mask of a source that knows only inside and outside."""


@dataclass(frozen=True)
class Proposals:
    """The proposals of one image.

    All tensors are on one device. The masks are small, so that those of a batch of images fit into
    memory; what needs them at the image's size enlarges some at a time.

    Attributes:
        masks_Nhw: floating point, of any size with about the image's aspect. A pixel is inside
            where its value, enlarged bilinearly (align_corners False) to the image, is above 0.
        scores_N: float32 in [0, 1], how good the source thinks each mask is; ones where it does not
            say.
        regions_hw: integer map of any size of which proposal every pixel votes with, -1 is none;
            None: the smallest proposal that covers a pixel.
        probs_NK: float32 in [0, 1], the score of each class, where the source itself knows words:
            the largest is the label, and the score of the instance. None: the method's score maps
            decide.
    """

    masks_Nhw: Tensor
    scores_N: Tensor
    regions_hw: Tensor | None = None
    probs_NK: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: they do not fit together.
        """
        shapes = tuple(self.masks_Nhw.shape), tuple(self.scores_N.shape)
        if self.masks_Nhw.ndim != 3 or shapes[1] != shapes[0][:1] or 0 in shapes[0][1:]:
            raise ValueError(f"expected masks (N, h, w) and scores (N,), got {shapes}")

    def __len__(self) -> int:
        """Return the number of proposals."""
        return len(self.scores_N)

    def region_map(self) -> Tensor:
        """Return which proposal every pixel votes with: integers (h, w), -1 is none."""
        if self.regions_hw is not None:
            return self.regions_hw
        return smallest_on_top(self.masks_Nhw > 0)

    def enlarged(self, size_hw: SizeHW) -> Tensor:
        """Return the masks at a size, bool (N, H, W); of a large image give some proposals only."""
        masks_NHW = F.interpolate(self.masks_Nhw[:, None].float(), size_hw, mode="bilinear")[:, 0]
        return masks_NHW > 0

    def area_shares(self, cells_hw: SizeHW) -> Tensor:
        """Return the share of each cell of a grid that is inside, float32 (N, h, w).

        A grid finer than the masks has each cell inside or outside.
        """
        height, width = self.masks_Nhw.shape[1:]
        if cells_hw[0] >= height or cells_hw[1] >= width:
            return self.enlarged(cells_hw).float()
        return F.adaptive_avg_pool2d((self.masks_Nhw > 0).float(), cells_hw)


def smallest_on_top(masks_Nhw: Tensor) -> Tensor:
    """Combine masks that may overlap to a map of their numbers.

    Of masks of equal area the first is on top.

    Args:
        masks_Nhw: bool.

    Returns:
        int32 (h, w) on the masks' device; -1: no mask.
    """
    areas = masks_Nhw.flatten(1).sum(1)
    regions_hw = torch.full(masks_Nhw.shape[1:], -1, dtype=torch.int32, device=masks_Nhw.device)
    # From the largest to the smallest, so that the smallest overwrites the others.
    for number in areas.argsort(stable=True).flip(0).tolist():
        regions_hw[masks_Nhw[number]] = number
    return regions_hw


def check_regions(regions_hw: Tensor, count: int) -> None:
    """Check that a map names no region but the first `count`; -1 is none.

    Raises:
        ValueError: it does; votes are counted in a table as long as the largest number.
    """
    low, high = (int(regions_hw.min()), int(regions_hw.max())) if regions_hw.numel() else (-1, -1)
    if regions_hw.ndim != 2 or low < -1 or high >= count:
        raise ValueError(f"expected a map of regions -1 to {count - 1:,}, got {low:,} to {high:,}")
