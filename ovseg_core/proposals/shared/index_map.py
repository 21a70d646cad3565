"""Proposals of an index map, in which every pixel belongs to one region or to none.

Shapes: N regions, H W pixels of the index map, h w of its reduced masks.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.images.proposal_masks import INSIDE, OUTSIDE, Proposals

MAX_VALUES = 1 << 25
"""Of the reduced masks of one image: 64 MB."""
_LEAST_PIXELS = 16 * 16


def of_index_map(index_HW: Tensor) -> Proposals:
    """Return a proposal for each value of an index map but 0, in the order of the values.

    Votes are held at the map's size; the masks are reduced until they have `MAX_VALUES`.

    Args:
        index_HW: integers, 0 is no region.
    """
    values, number_HW = index_HW.unique(return_inverse=True)
    regions_HW = (number_HW - int((values == 0).any())).int()
    num = int((values != 0).sum())
    size_hw = reduced_size(num, regions_HW.shape)
    small_hw = F.interpolate(regions_HW[None, None].float(), size_hw, mode="nearest")[0, 0].long()
    masks_Nhw = torch.full((num, *size_hw), OUTSIDE, dtype=torch.half)
    y, x = (small_hw >= 0).nonzero(as_tuple=True)
    masks_Nhw[small_hw[y, x], y, x] = INSIDE
    return Proposals(masks_Nhw, torch.ones(num), regions_HW)


def reduced_size(num_masks: int, size_hw: Sequence[int]) -> tuple[int, int]:
    """Return the size (h, w), at most the given one, at which the masks have `MAX_VALUES`."""
    pixels = max(MAX_VALUES / max(num_masks, 1), _LEAST_PIXELS)
    factor = min(1.0, math.sqrt(pixels / math.prod(size_hw)))
    return max(1, int(size_hw[0] * factor)), max(1, int(size_hw[1] * factor))
