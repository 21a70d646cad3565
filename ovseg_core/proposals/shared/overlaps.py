"""Masks that overlap: their boxes, and which of two with nearly the same box stays.

Shapes: N masks, h w their pixels.
"""

import torch
from torch import Tensor


def mask_boxes(masks_Nhw: Tensor) -> Tensor:
    """Return float32 boxes (N, 4) of masks: left, top, right, bottom; zeros of an empty one."""
    rows, columns = masks_Nhw.any(2), masks_Nhw.any(1)
    ends = []
    for line in (columns, rows):
        size = line.shape[1]
        place = torch.arange(size, device=line.device)
        first = torch.where(line, place, size).amin(1) if size else place
        last = torch.where(line, place + 1, 0).amax(1)
        ends.append((torch.minimum(first, last), last))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], dim=1).float()


def best_by_box(boxes_N4: Tensor, scores_N: Tensor, max_iou: float) -> Tensor:
    """Return the numbers of those that stay, by falling score.

    Of two whose boxes have an IoU above `max_iou` the one of the lower score is left out.
    """
    from torchvision.ops import nms

    return nms(boxes_N4, scores_N, max_iou)
