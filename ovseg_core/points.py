"""A class's similarity as a picture, and as points for a promptable segmenter such as SAM.

After CLIP Surgery (methods.md 9.2). No command asks for them: they are for code that hands a
method's scores on to SAM, and equal to the authors' tensors like the rest of the method.

Shapes: Q phrases, h w patches, H W image pixels, m points of each kind.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_REDUCTION = 2
"""Points are sought on cells of so many patches a side: a lone patch is no object."""


def display_maps(scores_Qhw: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return each map spread over 0 to 1 and enlarged bilinearly to an image (Q, H, W).

    Args:
        scores_Qhw: of the patches, in any range.
        size_hw: of the image.
    """
    return F.interpolate(spread(scores_Qhw)[None], size=size_hw, mode="bilinear")[0]


def spread(scores_Qhw: Tensor) -> Tensor:
    """Return each map less its minimum, divided by its range; a constant map is 0."""
    low, high = scores_Qhw.amin(dim=(1, 2), keepdim=True), scores_Qhw.amax(dim=(1, 2), keepdim=True)
    scale = high - low
    return (scores_Qhw - low) / torch.where(scale > 0, scale, 1)


def point_prompts(
    scores_hw: Tensor, size_hw: tuple[int, int], threshold: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Return points of one class (2 m, 2) as int64 (x, y), and 1 for on it, 0 for off it (2 m).

    The map is halved and spread over 0 to 1. Cells from the threshold on, at most half of all, are
    points on the object, the surest last; as many of the lowest are points off it, lowest first.

    Args:
        scores_hw: of the patches, in any range.
        size_hw: of the image that the points are in.
        threshold: what a cell on the object has at least, 0 to 1.
    """
    rows, columns = (max(side // _REDUCTION, 1) for side in scores_hw.shape)
    cells = F.interpolate(spread(scores_hw[None])[None], size=(rows, columns), mode="bilinear")
    values = spread(cells[0]).flatten()
    most = min(int((values >= threshold).sum()), len(values) // 2)
    order = values.argsort(stable=True)
    chosen = torch.cat([order[len(order) - most :], order[:most]])
    x, y = chosen % columns, chosen // columns
    height, width = size_hw
    points_M2 = torch.stack([(x + 0.5) * width / columns, (y + 0.5) * height / rows], dim=1).long()
    on_M = (torch.arange(2 * most, device=points_M2.device) < most).to(torch.uint8)
    return points_M2.clamp(max=points_M2.new_tensor([width - 1, height - 1])), on_M
