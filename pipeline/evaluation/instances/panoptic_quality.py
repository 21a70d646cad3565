"""Panoptic quality of things (Kirillov et al., CVPR 2019), image by image.

A pixel belongs to one mask at most: of segments that overlap the one with the highest score is on
top, of true objects the smallest. A segment and an object of its label are a match where their IoU
is above 0.5, which then is the only one of both. PQ = SQ x RQ: SQ is the mean IoU of the matches,
RQ = matches / (matches + false positives / 2 + misses / 2).

Pixels without a true object are background and not "void": a segment there is a false positive. As
in panopticapi, one that lies by more than half in a crowd region of its label is none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovseg_core.resize.nearest import SizeHW
from ovseg_core.rle.label_map import paint_label_map
from pipeline.evaluation.instances.image_pair import ImagePair

_BLOCK_PX = 1 << 24
"""Pixels that are counted at once."""


class PanopticFigures(NamedTuple):
    """Each 0 to 1; NaN: no mask of the label in truth or run, of SQ: no match."""

    pq: float
    sq: float
    rq: float


class PanopticQuality:
    """Panoptic quality of labels 1 to `num_labels`.

    Attributes:
        num_hidden_found: segments that lie wholly under others.
        num_hidden_true: true objects of which this is so.
    """

    def __init__(self, num_labels: int) -> None:
        self.num_hidden_found = self.num_hidden_true = 0
        self._iou = np.zeros(num_labels + 1)
        self._hits, self._false, self._missed = np.zeros((3, num_labels + 1), np.int64)

    def add(self, pair: ImagePair) -> None:
        """Match the masks of one image."""
        if not pair.truth and not pair.found:
            return
        labels_T = np.array([0, *(one.label for one in pair.truth)])
        labels_P = np.array([0, *(one.label for one in pair.found)])
        is_crowd_T = np.array([False, *(one.is_crowd for one in pair.truth)])
        bottom_first = sorted(
            range(len(pair.truth)),
            key=lambda k: (not pair.truth[k].is_crowd, -pair.truth[k].area_px),
        )
        true_map = _painted([one.rle_counts for one in pair.truth], bottom_first, pair.size_hw)
        bottom_first = sorted(range(len(pair.found)), key=lambda k: pair.found[k].score)
        found_map = _painted([one.rle_counts for one in pair.found], bottom_first, pair.size_hw)
        true_px = np.bincount(true_map.ravel(), minlength=len(labels_T))
        found_px = np.bincount(found_map.ravel(), minlength=len(labels_P))
        true, found, shared_px = _overlaps(true_map, found_map)
        is_same = labels_T[true] == labels_P[found]
        true, found, shared_px = true[is_same], found[is_same], shared_px[is_same]

        iou = shared_px / (true_px[true] + found_px[found] - shared_px)
        is_match = (iou > 0.5) & ~is_crowd_T[true]
        np.add.at(self._iou, labels_T[true[is_match]], iou[is_match])
        np.add.at(self._hits, labels_T[true[is_match]], 1)

        is_missed = (true_px > 0) & ~is_crowd_T
        is_missed[true[is_match]] = is_missed[0] = False
        np.add.at(self._missed, labels_T[is_missed], 1)
        in_crowd = is_crowd_T[true]
        crowd_px = np.bincount(found[in_crowd], shared_px[in_crowd], len(labels_P))
        is_false = (found_px > 0) & (crowd_px <= 0.5 * found_px)
        is_false[found[is_match]] = is_false[0] = False
        np.add.at(self._false, labels_P[is_false], 1)
        self.num_hidden_true += int((true_px[1:] == 0).sum())
        self.num_hidden_found += int((found_px[1:] == 0).sum())

    def figures(self) -> list[PanopticFigures]:
        """Return the figures of each label, in order."""
        found = []
        for iou, hits, wrong in zip(
            self._iou[1:], self._hits[1:], (self._false + self._missed)[1:], strict=True
        ):
            sq = iou / hits if hits else np.nan
            rq = hits / (hits + 0.5 * wrong) if hits + wrong else np.nan
            pq = 0.0 if wrong and not hits else sq * rq
            found.append(PanopticFigures(float(pq), float(sq), float(rq)))
        return found


def mean_panoptic(figures: Sequence[PanopticFigures]) -> PanopticFigures:
    """Return the means over the labels that occur in truth or run, as panopticapi; NaN: none does.

    A label without a match has SQ 0 in the mean.
    """
    occurring = [one for one in figures if not np.isnan(one.rq)]
    if not occurring:
        return PanopticFigures(np.nan, np.nan, np.nan)
    return PanopticFigures(*np.nan_to_num(np.array(occurring)).mean(axis=0).tolist())


def _painted(counts: Sequence[str], order: Sequence[int], size_hw: SizeHW) -> NDArray[np.uint32]:
    """Return (H, W) the number, from 1, of the mask on top of each pixel; 0: none.

    Args:
        counts: RLE of the masks.
        order: of their painting; later ones lie over earlier ones.
        size_hw: of the image.
    """
    numbers = [place + 1 for place in order]
    return paint_label_map([counts[place] for place in order], numbers, size_hw, np.uint32)


def _overlaps(
    one: NDArray[np.uint32], other: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of masks that share pixels: numbers of both, and how many pixels."""
    height, width = one.shape
    rows = max(1, _BLOCK_PX // width)
    pairs: dict[int, int] = {}
    for top in range(0, height, rows):
        first, second = one[top : top + rows], other[top : top + rows]
        both = (first > 0) & (second > 0)
        codes = first[both].astype(np.int64) << 32 | second[both]
        for code, count in zip(
            *(values.tolist() for values in np.unique(codes, return_counts=True)), strict=True
        ):
            pairs[code] = pairs.get(code, 0) + count
    codes = np.array(list(pairs), np.int64)
    return codes >> 32, codes & 0xFFFFFFFF, np.array(list(pairs.values()), np.int64)
