"""Match the corrected masks of an image with its predicted segments."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ovseg_core.rle import components
from ovseg_core.rle.encode import coco_rle
from pipeline.run.reader import Row
from schemas.records import MaskKind
from schemas.review import ReviewedMask, Verdict

RELABELLED_IOU = 0.5
"""IoU from which a mask of another label counts as a predicted segment that was relabelled."""


@dataclass(frozen=True)
class CorrectedMask:
    """A mask of a tool's file, with the label and in the frame of the run.

    Attributes:
        category_id: of the run's label.
        rle_counts: COCO compressed RLE in the frame that a person sees (EXIF orientation applied).
        segment_index: of the predicted segment, if the tool's file names it.
    """

    category_id: int
    rle_counts: str
    segment_index: int | None = None


def merge_by_label(
    corrected: Sequence[CorrectedMask], size_hw: tuple[int, int]
) -> list[CorrectedMask]:
    """Return one mask per label, as in a run with `masks.segments: class`."""
    return [
        CorrectedMask(
            category_id,
            _union([mask.rle_counts for mask in masks], size_hw)["counts"].decode("ascii"),
            next((m.segment_index for m in masks if m.segment_index is not None), None),
        )
        for category_id, masks in sorted(_by_category(corrected).items())
    ]


def split_into_components(
    corrected: Sequence[CorrectedMask], predicted: Sequence[Row], size_hw: tuple[int, int]
) -> list[CorrectedMask]:
    """Return the masks; one that covers several predicted segments is split into its components.

    This undoes an export with one mask per label of a run with `masks.segments: components`.
    """
    found: list[CorrectedMask] = []
    for mask in corrected:
        same = [row["rle_counts"] for row in predicted if row["category_id"] == mask.category_id]
        if np.count_nonzero(pairwise_ious([mask.rle_counts], same, size_hw)) < 2:
            found.append(mask)
            continue
        parts = components.split_components([mask.rle_counts], size_hw)[0]
        found += [replace(mask, rle_counts=part.counts) for part in parts]
    return found


def split_into_instances(
    corrected: Sequence[CorrectedMask], predicted: Sequence[Row], size_hw: tuple[int, int]
) -> list[CorrectedMask]:
    """Return the masks; one that is all predicted instances of its label together becomes these.

    This undoes an export with one mask per label of a run with `masks.segments: instances`, for
    masks that nobody has changed.
    """
    found: list[CorrectedMask] = []
    for mask in corrected:
        same = [row["rle_counts"] for row in predicted if row["category_id"] == mask.category_id]
        together = _union(same, size_hw)["counts"].decode("ascii") if len(same) > 1 else ""
        if together and pairwise_ious([mask.rle_counts], [together], size_hw)[0, 0] == 1:
            found += [CorrectedMask(mask.category_id, counts) for counts in same]
        else:
            found.append(mask)
    return found


def restored(
    corrected: Sequence[CorrectedMask],
    before: Sequence[CorrectedMask],
    kind: MaskKind,
    size_hw: tuple[int, int],
) -> list[CorrectedMask]:
    """Return the masks; those of a label that are as an export has them become what it was made of.

    This undoes what exports do to masks that people left: they join those that got the same label
    in a run with one mask per label, and cut drawn ones in a run of connected regions.

    Args:
        corrected: one image's masks of the file, as masks of the run's kind.
        before: the image's masks with the corrections until now.
        kind: of the run's masks.
        size_hw: of the image.
    """
    ours, theirs = _by_category(before), _by_category(corrected)
    found: list[CorrectedMask] = []
    for category_id, masks in theirs.items():
        own = ours.get(category_id, [])
        found += own if own and _is_export_of(masks, own, kind, size_hw) else masks
    return found


def _by_category(masks: Sequence[CorrectedMask]) -> dict[int, list[CorrectedMask]]:
    found: dict[int, list[CorrectedMask]] = {}
    for mask in masks:
        found.setdefault(mask.category_id, []).append(mask)
    return found


def _is_export_of(
    masks: Sequence[CorrectedMask],
    own: Sequence[CorrectedMask],
    kind: MaskKind,
    size_hw: tuple[int, int],
) -> bool:
    """Return whether masks of one label are what an export makes of others of it."""
    theirs, ours = ([mask.rle_counts for mask in side] for side in (masks, own))
    if sorted(theirs) == sorted(ours):
        return True
    if len(theirs) == 1 and len(ours) > 1:
        shared, union = overlap(theirs, ours, size_hw)
        return shared == union
    if kind != "component":
        return False
    cut = (components.split_components(side, size_hw) for side in (theirs, ours))
    one, other = (sorted(part.counts for parts in side for part in parts) for side in cut)
    return one == other


def match(
    image: Row,
    predicted: Sequence[Row],
    corrected: Sequence[CorrectedMask],
    names: Sequence[str],
) -> list[ReviewedMask]:
    """Return the corrected masks, each with the predicted segment that it comes from, if any.

    No two masks get the same segment. Empty masks are left out.

    Args:
        image: row with `image_id`, `height` and `width`.
        predicted: the image's annotation rows.
        corrected: the image's corrected masks.
        names: the run's labels in order.
    """
    size_hw = image["height"], image["width"]
    rles: Any = [coco_rle(mask.rle_counts, size_hw) for mask in corrected]
    areas: Any = coco_mask.area(rles)
    found = [
        (mask, rle, int(area))
        for mask, rle, area in zip(corrected, rles, areas, strict=True)
        if area
    ]
    origins = _origins(predicted, [mask for mask, _, _ in found])
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
        for (mask, rle, area), row in zip(found, origins, strict=True)
    ]


def _verdict(row: Row | None, mask: CorrectedMask) -> Verdict:
    if row is None:
        return "added"
    is_same = row["category_id"] == mask.category_id and row["rle_counts"] == mask.rle_counts
    return "accepted" if is_same else "changed"


def _origins(predicted: Sequence[Row], corrected: Sequence[CorrectedMask]) -> list[Row | None]:
    """Return the predicted segment of each mask, or None; no two masks get the same one.

    The best pairs are fixed first: the same label and named by the tool's file, the same label and
    the same pixels, the same label, another label but named by the file, another label at nearly
    the same place. Among equals the pairs have the largest sum of IoUs.
    """
    if not predicted or not corrected:
        return [None] * len(corrected)
    size_hw = predicted[0]["height"], predicted[0]["width"]
    counts = [row["rle_counts"] for row in predicted]
    ious = pairwise_ious([mask.rle_counts for mask in corrected], counts, size_hw)
    indices = [-1 if mask.segment_index is None else mask.segment_index for mask in corrected]
    named = np.equal.outer(indices, [row["segment_index"] for row in predicted])
    labels = [mask.category_id for mask in corrected]
    same = np.equal.outer(labels, [row["category_id"] for row in predicted])
    origins: list[Row | None] = [None] * len(corrected)
    for allowed in (same & named, same & (ious == 1), same, named, ious >= RELABELLED_IOU):
        for mask, row in best_pairs(np.where(allowed, ious, 0)):
            origins[mask] = predicted[row]
            ious[mask], ious[:, row] = 0, 0
    return origins


def best_pairs(ious: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return pairs of a row and a column, each in one pair at most, with the largest sum of IoUs.

    Args:
        ious: (N, M); pairs with an IoU of 0 are left out.
    """
    ones, others = np.nonzero(ious)
    num_ones = len(ious)
    size = num_ones + ious.shape[1]
    touching = coo_array((np.ones(len(ones)), (ones, num_ones + others)), shape=(size, size))
    group = connected_components(touching, directed=False)[1]
    order = np.argsort(group[ones], kind="stable")
    ones, others = ones[order], others[order]
    pairs: list[tuple[int, int]] = []
    for places in np.split(np.arange(len(ones)), np.flatnonzero(np.diff(group[ones])) + 1):
        rows, columns = np.unique(ones[places]), np.unique(others[places])
        found = linear_sum_assignment(ious[np.ix_(rows, columns)], maximize=True)
        pairs += zip(rows[found[0]].tolist(), columns[found[1]].tolist(), strict=True)
    return [(one, other) for one, other in pairs if ious[one, other] > 0]


def overlap(one: Sequence[str], other: Sequence[str], size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the pixels in the intersection and in the union of two sets of masks (RLE counts)."""
    sets = [_union(side, size_hw) for side in (one, other)]
    areas = [
        int(coco_mask.area(rle)) if side else 0
        for rle, side in zip(sets, (one, other), strict=True)
    ]
    if not all(areas):
        return 0, sum(areas)
    shared = int(coco_mask.area(coco_mask.merge(sets, intersect=True)))
    return shared, sum(areas) - shared


def union_px(counts: Sequence[str], size_hw: tuple[int, int]) -> int:
    """Return the pixels that are in any of some masks (RLE counts)."""
    return int(coco_mask.area(_union(counts, size_hw))) if counts else 0


def instance_agreement(one: Sequence[str], other: Sequence[str], size_hw: tuple[int, int]) -> float:
    """Return how far two sets of instances (RLE counts) agree, 0 to 1.

    The IoUs of instances that are matched one to one, summed and divided by the mean number of
    instances: panoptic quality without its threshold.
    """
    ious = pairwise_ious(one, other, size_hw)
    total = sum(float(ious[pair]) for pair in best_pairs(ious))
    return total / max((len(one) + len(other)) / 2, 1)


def mean_best_iou(one: Sequence[str], other: Sequence[str], size_hw: tuple[int, int]) -> float:
    """Return the mean over the first masks (RLE counts) of the IoU with the best of the others."""
    ious = pairwise_ious(one, other, size_hw)
    return float(ious.max(axis=1).mean()) if ious.size else 0.0


def count_px(counts: str, size_hw: tuple[int, int]) -> int:
    """Return the number of pixels of a mask (RLE counts)."""
    return int(coco_mask.area(coco_rle(counts, size_hw)))


def covered_segments(
    predicted: Sequence[Row], masks: Sequence[CorrectedMask], least: float
) -> set[int]:
    """Return the predicted segments that masks name or cover at least in this share of pixels.

    Without any mask there are none; a share of 0 is that of every segment.
    """
    found = {mask.segment_index for mask in masks if mask.segment_index is not None}
    for row in predicted if masks else ():
        size_hw = row["height"], row["width"]
        counts = [mask.rle_counts for mask in masks]
        shared, _ = overlap([row["rle_counts"]], counts, size_hw)
        if shared >= least * count_px(row["rle_counts"], size_hw):
            found.add(row["segment_index"])
    return found & {row["segment_index"] for row in predicted}


def pairwise_ious(
    one: Sequence[str], other: Sequence[str], size_hw: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the IoU (N, M) of every pair of masks."""
    if not one or not other:
        return np.zeros((len(one), len(other)))
    ours, theirs = ([coco_rle(text, size_hw) for text in side] for side in (one, other))
    return np.asarray(coco_mask.iou(ours, theirs, [0] * len(other)))


def _union(counts: Sequence[str], size_hw: tuple[int, int]) -> Any:
    return coco_mask.merge([coco_rle(text, size_hw) for text in counts])
