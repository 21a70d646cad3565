"""Which of overlapping masks stay: one for each object.

Shapes: N masks, h w their pixels.
"""

from torch import Tensor

NESTED_SHARE = 0.9
"""A mask lies in another one if that one covers more than this share of it."""
FILLED_SHARE = 0.7
"""A mask is a group if several of its label that lie in it cover more than this share of it."""


def kept_masks(masks_Nhw: Tensor, labels_N: Tensor, ranks_N: Tensor, max_iou: float) -> list[int]:
    """Return the masks that stay, by falling rank.

    A mask is left out

    - if its IoU with one that stays is above `max_iou`, whatever the labels are: the label of the
      higher rank keeps the object;
    - if it lies in one of its label that stays: a part;
    - if several masks of its label that stay lie in it and fill it: a group.

    One mask of its label that lies in it and does not fill it is a part as well: that one is left
    out then. An object of one label that lies in an object of another stays.

    Args:
        masks_Nhw: bool.
        labels_N: integer label of each.
        ranks_N: the higher, the sooner it stays.
        max_iou: in [0, 1].
    """
    areas = masks_Nhw.flatten(1).sum(1).tolist()
    labels = labels_N.tolist()
    boxes = _boxes(masks_Nhw)
    kept: list[int] = []
    for number in ranks_N.argsort(descending=True, stable=True).tolist():
        if not areas[number]:
            continue
        near = [one for one in kept if _touch(boxes[one], boxes[number])]
        shared = _intersections(masks_Nhw, number, near, boxes[number])
        ious = (both / (areas[one] + areas[number] - both) for one, both in shared.items())
        if any(iou > max_iou for iou in ious):
            continue
        alike = {one: both for one, both in shared.items() if labels[one] == labels[number]}
        if any(both > NESTED_SHARE * areas[number] for both in alike.values()):
            continue
        inner = [one for one, both in alike.items() if both > NESTED_SHARE * areas[one]]
        filled = sum(alike[one] for one in inner)
        if len(inner) > 1 and filled > FILLED_SHARE * areas[number]:
            continue
        kept = [one for one in kept if one not in inner] + [number]
    return sorted(kept, key=lambda one: -float(ranks_N[one]))


Box = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are excluded."""


def _boxes(masks_Nhw: Tensor) -> list[Box]:
    rows, columns = masks_Nhw.any(2).cpu(), masks_Nhw.any(1).cpu()
    boxes = []
    for row, column in zip(rows, columns, strict=True):
        down, across = row.nonzero(), column.nonzero()
        if len(down):
            boxes.append((int(down[0]), int(across[0]), int(down[-1]) + 1, int(across[-1]) + 1))
        else:
            boxes.append((0, 0, 0, 0))
    return boxes


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _intersections(masks_Nhw: Tensor, number: int, others: list[int], box: Box) -> dict[int, int]:
    """Return the pixels that a mask shares with each of the others."""
    if not others:
        return {}
    top, left, bottom, right = box
    cut = masks_Nhw[:, top:bottom, left:right]
    return dict(zip(others, (cut[others] & cut[number]).flatten(1).sum(1).tolist(), strict=True))
