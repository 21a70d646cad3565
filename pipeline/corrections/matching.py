"""One image: which predicted segment each corrected mask stems from, and what was done to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.rle import components
from pipeline.run.reader import Row
from schemas.review import ReviewedMask, Verdict

SAME_PLACE = 0.5
"""IoU from which a mask of another label stems from a predicted one: it was relabelled."""


@dataclass(frozen=True)
class Drawn:
    """A corrected mask in the run's terms.

    Attributes:
        category_id: of the run's label.
        rle_counts: of the mask, in the frame in which the run's image is displayed.
        segment_index: what the tool notes about where it came from; None: nothing.
    """

    category_id: int
    rle_counts: str
    segment_index: int | None = None


def joined(drawn: Sequence[Drawn], size_hw: tuple[int, int]) -> list[Drawn]:
    """Return one mask for each label, as a run with `masks.segments: class` has them."""
    by_label: dict[int, list[Drawn]] = {}
    for mask in drawn:
        by_label.setdefault(mask.category_id, []).append(mask)
    return [
        Drawn(
            category_id,
            _union([mask.rle_counts for mask in masks], size_hw)["counts"].decode("ascii"),
            next((m.segment_index for m in masks if m.segment_index is not None), None),
        )
        for category_id, masks in sorted(by_label.items())
    ]


def divided(
    drawn: Sequence[Drawn], predicted: Sequence[Row], size_hw: tuple[int, int]
) -> list[Drawn]:
    """Return the masks, those that cover several predicted segments as their connected regions.

    So masks come back that were exported one for each label from a run of regions.
    """
    found: list[Drawn] = []
    for mask in drawn:
        same = [row["rle_counts"] for row in predicted if row["category_id"] == mask.category_id]
        if np.count_nonzero(_ious([mask.rle_counts], same, size_hw)) < 2:
            found.append(mask)
            continue
        regions = components.split([mask.rle_counts], size_hw)[0]
        found += [replace(mask, rle_counts=region.counts) for region in regions]
    return found


def match(
    image: Row, predicted: Sequence[Row], drawn: Sequence[Drawn], names: Sequence[str]
) -> list[ReviewedMask]:
    """Return the masks with what became of the predictions; empty masks are left out.

    Args:
        image: its `image_id`, `height` and `width`.
        predicted: its segments.
        drawn: its corrected masks.
        names: the run's labels in order.
    """
    size_hw = image["height"], image["width"]
    rles: Any = [_rle(mask.rle_counts, size_hw) for mask in drawn]
    areas: Any = coco_mask.area(rles)
    found = [
        (mask, rle, int(area)) for mask, rle, area in zip(drawn, rles, areas, strict=True) if area
    ]
    origin = _origins(predicted, [mask for mask, _, _ in found])
    return [
        ReviewedMask(
            image_id=image["image_id"],
            label=names[mask.category_id - 1],
            category_id=mask.category_id,
            segment_index=None if row is None else row["segment_index"],
            height=size_hw[0],
            width=size_hw[1],
            rle_counts=mask.rle_counts,
            area_px=area,
            bbox_xywh=coco_mask.toBbox(rle).tolist(),
            verdict=_verdict(row, mask),
        )
        for (mask, rle, area), row in zip(found, origin, strict=True)
    ]


def _verdict(row: Row | None, mask: Drawn) -> Verdict:
    if row is None:
        return "added"
    is_same = row["category_id"] == mask.category_id and row["rle_counts"] == mask.rle_counts
    return "accepted" if is_same else "changed"


def _origins(predicted: Sequence[Row], drawn: Sequence[Drawn]) -> list[Row | None]:
    """Return the predicted segment of each mask: no two have the same."""
    if not predicted or not drawn:
        return [None] * len(drawn)
    size_hw = predicted[0]["height"], predicted[0]["width"]
    counts = [row["rle_counts"] for row in predicted]
    ious = _ious([mask.rle_counts for mask in drawn], counts, size_hw)
    origin: list[Row | None] = [None] * len(drawn)
    taken: set[int] = set()
    for _, _, mask, row in sorted(_pairs(predicted, drawn, ious)):
        if origin[mask] is None and row not in taken:
            origin[mask] = predicted[row]
            taken.add(row)
    return origin


def _pairs(
    predicted: Sequence[Row], drawn: Sequence[Drawn], ious: NDArray[np.float64]
) -> Iterator[tuple[int, float, int, int]]:
    """Yield possible pairs as (how sure, -IoU, mask, segment): what sorts first counts first."""
    for mask, row in zip(*(axis.tolist() for axis in np.nonzero(ious)), strict=True):
        iou = float(ious[mask, row])
        noted = drawn[mask].segment_index == predicted[row]["segment_index"]
        if drawn[mask].category_id == predicted[row]["category_id"]:
            yield (0 if noted else 1), -iou, mask, row
        elif noted or iou >= SAME_PLACE:
            yield (2 if noted else 3), -iou, mask, row


def overlap(one: Sequence[str], other: Sequence[str], size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the pixels of intersection and union of two sets of masks (RLE counts)."""
    sets = [_union(side, size_hw) for side in (one, other)]
    areas = [
        int(coco_mask.area(rle)) if side else 0
        for rle, side in zip(sets, (one, other), strict=True)
    ]
    if not all(areas):
        return 0, sum(areas)
    shared = int(coco_mask.area(coco_mask.merge(sets, intersect=True)))
    return shared, sum(areas) - shared


def _ious(
    one: Sequence[str], other: Sequence[str], size_hw: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the IoU (N, M) of every two masks."""
    if not one or not other:
        return np.zeros((len(one), len(other)))
    ours, theirs = ([_rle(text, size_hw) for text in side] for side in (one, other))
    return np.asarray(coco_mask.iou(ours, theirs, [0] * len(other)))


def _union(counts: Sequence[str], size_hw: tuple[int, int]) -> Any:
    return coco_mask.merge([_rle(text, size_hw) for text in counts])


def _rle(counts: str, size_hw: tuple[int, int]) -> Any:
    return {"counts": counts.encode("ascii"), "size": list(size_hw)}
