"""How well each segment of an image fits each true object of its label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.encode import coco_rle
from pipeline.evaluation.instances.image_pair import (
    FoundInstance,
    ImagePair,
    TrueInstance,
    by_label,
)

HALF = 0.5
"""More than this share of two masks together: it is the best fit of both, unless masks overlap."""


@dataclass(frozen=True)
class LabelMatching:
    """One label that truth or run have in an image.

    Attributes:
        label: its number.
        ious: (segments, objects) IoU of each pair. Crowd regions are no objects, and a segment that
            lies by more than half in one, and fits no object by more than half, does not count.
        is_shown: the truth has an object or a crowd region.
        is_found: the run has a segment, also one that does not count.
    """

    label: int
    ious: NDArray[np.float64]
    is_shown: bool
    is_found: bool


def matchings(pair: ImagePair) -> Iterator[LabelMatching]:
    """Yield the labels of an image."""
    truth, found = by_label(pair.truth), by_label(pair.found)
    for label in sorted(truth.keys() | found.keys()):
        true, ours = truth.get(label, ()), found.get(label, ())
        yield LabelMatching(label, _ious(true, ours, pair.size_hw), bool(true), bool(ours))


def _ious(
    truth: Sequence[TrueInstance], found: Sequence[FoundInstance], size_hw: SizeHW
) -> NDArray[np.float64]:
    objects: Any = [coco_rle(one.rle_counts, size_hw) for one in truth if not one.is_crowd]
    crowds: Any = [coco_rle(one.rle_counts, size_hw) for one in truth if one.is_crowd]
    ours: Any = [coco_rle(one.rle_counts, size_hw) for one in found]
    ious = np.zeros((len(ours), len(objects)))
    if ours and objects:
        ious = np.asarray(coco_mask.iou(ours, objects, [0] * len(objects)))
    if not ours or not crowds:
        return ious
    shares = np.asarray(coco_mask.iou(ours, crowds, [1] * len(crowds)))
    return ious[(shares.max(axis=1) <= HALF) | (ious.max(axis=1, initial=0) > HALF)]
