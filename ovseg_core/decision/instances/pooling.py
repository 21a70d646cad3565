"""What the scores of an image say of the inside of masks.

The class probabilities are those of the decision, on a canvas of bounded size; a mask takes their
mean over its pixels, as FC-CLIP and MaskCLIP pool features over a mask (Yu et al., NeurIPS 2023,
section 3.3): here every method's own fusion and rule are part of it. All of it goes band by band,
so that no (K, H, W) array of an image ever exists.

Shapes: N masks, K classes with background first, (H, W) the canvas, R rows of one band.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.decision.canvas import ScoredCanvas, kept_labels
from ovseg_core.decision.values import (
    MARGIN_BINS,
    MARGIN_PERCENTILE,
    behind_best,
    probabilities_and_entropy,
)
from schemas.score_columns import LOW_MARGIN, MEANS, RIM_ENTROPY


class PooledScores:
    """The scores of one image, pooled over masks.

    Args:
        canvas: of the image; bounded, as every call goes through all of it.
    """

    def __init__(self, canvas: ScoredCanvas) -> None:
        self._canvas = canvas
        self._kept = kept_labels(canvas.maps, canvas.scores, canvas.bands)

    def class_probabilities(self, shares_NHW: Tensor) -> Tensor:
        """Return the mean probability of each class inside each mask (N, K); 0 of an empty one.

        Args:
            shares_NHW: float32 in [0, 1], the share of each pixel that is inside.
        """
        sums_NK = shares_NHW.new_zeros(len(shares_NHW), self._canvas.num_classes)
        for band, probs_KRW, _, _ in self._bands():
            sums_NK += shares_NHW[:, band].flatten(1) @ probs_KRW.flatten(1).T
        return sums_NK / shares_NHW.flatten(1).sum(1).clamp(min=1e-6)[:, None]

    def columns(self, shares_NHW: Tensor, labels_N: Tensor) -> dict[str, NDArray[np.float64]]:
        """Return the score columns of masks by name, each (N,) in [0, 1].

        Formulas are those of `decision.segment_scores`, with the label of the mask in place of each
        pixel's own.

        Args:
            shares_NHW: as for `class_probabilities`.
            labels_N: int64 class of each mask.
        """
        num = len(shares_NHW)
        sums_4N = shares_NHW.new_zeros(4, num)
        histogram = shares_NHW.new_zeros(num, MARGIN_BINS)
        rim_2N = shares_NHW.new_zeros(2, num)
        rims_NHW = _rims(shares_NHW)
        for band, probs_KRW, entropy_RW, shown_RW in self._bands():
            best_2RW, place_2RW = probs_KRW.topk(2, dim=0)
            for number in range(num):
                share_RW, label = shares_NHW[number, band], labels_N[number]
                if not share_RW.any():
                    continue
                own_RW = probs_KRW[label]
                others_RW = torch.where(place_2RW[0] == label, best_2RW[1], best_2RW[0])
                margin_RW = (own_RW - others_RW).clamp(0, 1)
                values = (own_RW, margin_RW, entropy_RW, shown_RW)
                sums_4N[:, number] += torch.stack([(share_RW * it).sum() for it in values])
                cells = (margin_RW * (MARGIN_BINS - 1) + 0.5).long().flatten()
                histogram[number] += cells.bincount(share_RW.flatten(), MARGIN_BINS)
                rim_RW = rims_NHW[number, band]
                rim_2N[:, number] += torch.stack([rim_RW.sum(), (rim_RW * entropy_RW).sum()])
        areas_N = shares_NHW.flatten(1).sum(1).clamp(min=1e-6)
        reached = histogram.cumsum(1) >= MARGIN_PERCENTILE * histogram.sum(1, keepdim=True)
        columns = {
            **dict(zip(MEANS, sums_4N / areas_N, strict=True)),
            LOW_MARGIN: reached.int().argmax(1) / (MARGIN_BINS - 1),
            RIM_ENTROPY: rim_2N[1] / rim_2N[0].clamp(min=1e-6),
        }
        return {name: it.clamp(0, 1).double().cpu().numpy() for name, it in columns.items()}

    def _bands(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yield bands of rows: probabilities (K, R, W), entropy and objectness (R, W) in [0, 1]."""
        canvas, maps = self._canvas, self._canvas.maps
        for band in canvas.bands:
            values, _, shown = canvas.values(band, self._kept)
            behind = behind_best(values, maps)
            probs, entropy = probabilities_and_entropy(values, behind, shown, maps, self._kept)
            ones = torch.ones_like(entropy)
            yield band, probs, entropy / np.log(len(probs)), ones if shown is None else shown


def _rims(shares_NHW: Tensor) -> Tensor:
    """Return 1 where a mask's pixel has a 4-neighbour outside, or the image's edge, else 0."""
    inside = shares_NHW >= 0.5
    padded = torch.nn.functional.pad(inside, (1, 1, 1, 1))
    all_round = padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:]
    return (inside & ~(all_round & padded[:, 1:-1, :-2])).float()
