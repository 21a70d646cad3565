"""Panoptic quality of things (Kirillov et al., CVPR 2019), image by image.

A segment and an object of its label match where their IoU is above 0.5. PQ = SQ x RQ: SQ is the
mean IoU of the matches, RQ = matches / (matches + false positives / 2 + misses / 2).

The paper's masks do not overlap, so that a mask has one match at most; there these are the figures
of panopticapi. Instances may overlap: they are matched one to one, by the highest sum of IoUs.
Pixels without a true object are background and not "void": a segment there is a false positive.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipeline.evaluation.instances.matching import HALF, LabelMatching


class PanopticFigures(NamedTuple):
    """Each 0 to 1; NaN: no mask of the label in truth or run, of SQ: no match."""

    pq: float
    sq: float
    rq: float


class PanopticQuality:
    """Panoptic quality of labels 1 to `num_labels`."""

    def __init__(self, num_labels: int) -> None:
        self._iou = np.zeros(num_labels + 1)
        self._hits, self._masks = np.zeros((2, num_labels + 1), np.int64)

    def add(self, image: Iterable[LabelMatching]) -> None:
        """Count one image."""
        for matching in image:
            ious = np.where(matching.ious > HALF, matching.ious, 0)
            pairs = ious[linear_sum_assignment(ious, maximize=True)]
            self._iou[matching.label] += pairs.sum()
            self._hits[matching.label] += np.count_nonzero(pairs)
            self._masks[matching.label] += sum(ious.shape)

    def figures(self) -> list[PanopticFigures]:
        """Return the figures of each label, in order."""
        found = []
        for iou, hits, masks in zip(self._iou[1:], self._hits[1:], self._masks[1:], strict=True):
            sq = float(iou / hits) if hits else np.nan
            pq, rq = (2 * float(value / masks) if masks else np.nan for value in (iou, hits))
            found.append(PanopticFigures(pq, sq, rq))
        return found


def mean_panoptic(figures: Sequence[PanopticFigures]) -> PanopticFigures:
    """Return the means over the labels that occur in truth or run, as panopticapi; NaN: none does.

    A label without a match has SQ 0 in the mean.
    """
    occurring = [one for one in figures if not np.isnan(one.rq)]
    if not occurring:
        return PanopticFigures(np.nan, np.nan, np.nan)
    return PanopticFigures(*np.nan_to_num(np.array(occurring)).mean(axis=0).tolist())
