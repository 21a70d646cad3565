"""One image: which predicted segment each corrected mask stems from, and what was done to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.rle import encode_regions
from pipeline.predictions import Row
from schemas.review import ReviewedMask, Verdict

SAME_PLACE = 0.5
"""IoU from which a mask of another label stems from a predicted one: it was relabelled."""


@dataclass(frozen=True)
class Drawn:
    """A corrected mask in the run's terms.

    Attributes:
        category_id: of the run's label.
        pixels: (H, W), as the run's image is displayed.
        segment_index: what the tool notes about where it came from; None: nothing.
    """

    category_id: int
    pixels: NDArray[np.bool_]
    segment_index: int | None = None


def joined(drawn: Sequence[Drawn]) -> list[Drawn]:
    """Return one mask for each label, as a run with `masks.segments: class` has them."""
    by_label: dict[int, list[Drawn]] = {}
    for mask in drawn:
        by_label.setdefault(mask.category_id, []).append(mask)
    return [
        Drawn(
            category_id,
            np.logical_or.reduce([mask.pixels for mask in masks]),
            next((m.segment_index for m in masks if m.segment_index is not None), None),
        )
        for category_id, masks in sorted(by_label.items())
    ]


def match(
    image_id: str, predicted: Sequence[Row], drawn: Sequence[Drawn], names: Sequence[str]
) -> list[ReviewedMask]:
    """Return the masks with what became of the predictions; empty masks are left out.

    Args:
        image_id: of the image.
        predicted: its segments.
        drawn: its corrected masks.
        names: the run's labels in order.
    """
    size_hw = drawn[0].pixels.shape if drawn else (0, 0)
    found = [
        (mask, rle)
        for mask in drawn
        for rle in encode_regions(mask.pixels.view(np.uint8), size_hw).values()
    ]
    origin = _origins(predicted, [mask for mask, _ in found], [rle.counts for _, rle in found])
    return [
        ReviewedMask(
            image_id=image_id,
            label=names[mask.category_id - 1],
            category_id=mask.category_id,
            segment_index=None if row is None else row["segment_index"],
            height=size_hw[0],
            width=size_hw[1],
            rle_counts=rle.counts,
            area_px=rle.area_px,
            bbox_xywh=rle.bbox_xywh,
            verdict=_verdict(row, mask.category_id, rle.counts),
        )
        for (mask, rle), row in zip(found, origin, strict=True)
    ]


def _verdict(row: Row | None, category_id: int, counts: str) -> Verdict:
    if row is None:
        return "added"
    same = row["category_id"] == category_id and row["rle_counts"] == counts
    return "accepted" if same else "changed"


def _origins(
    predicted: Sequence[Row], drawn: Sequence[Drawn], counts: Sequence[str]
) -> list[Row | None]:
    """Return the predicted segment of each mask: no two have the same."""
    if not predicted or not drawn:
        return [None] * len(drawn)
    size = [predicted[0]["height"], predicted[0]["width"]]
    ious = coco_mask.iou(
        [_rle(text, size) for text in counts],
        [_rle(row["rle_counts"], size) for row in predicted],
        [0] * len(predicted),
    )
    origin: list[Row | None] = [None] * len(drawn)
    taken: set[int] = set()
    for _, _, mask, row in sorted(_pairs(predicted, drawn, np.asarray(ious))):
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
    size = list(size_hw)
    sets: list[Any] = [
        coco_mask.merge([_rle(text, size) for text in side]) for side in (one, other)
    ]
    areas = [
        int(coco_mask.area(rle)) if side else 0
        for rle, side in zip(sets, (one, other), strict=True)
    ]
    if not all(areas):
        return 0, sum(areas)
    shared = int(coco_mask.area(coco_mask.merge(sets, intersect=True)))
    return shared, sum(areas) - shared


def _rle(counts: str, size: Sequence[int]) -> Any:
    return {"counts": counts.encode("ascii"), "size": list(size)}
