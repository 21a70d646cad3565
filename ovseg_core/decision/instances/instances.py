"""The instances of one image, from its proposals.

Shapes: N proposals, M instances, K classes with background first, h w pixels of the proposals'
masks, (H, W) a canvas.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.decision.canvas import ScoredCanvas
from ovseg_core.decision.instances.pooling import PooledScores
from ovseg_core.decision.instances.suppression import kept_masks
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.images.resize.published_sizes import limited_size
from ovseg_core.rle.components import component_numbers
from ovseg_core.rle.encode import Rle, encode_pieces
from ovseg_core.rle.stack import cut_outs, pieces_of
from ovseg_core.segmenter import ScoreMaps
from schemas.score_columns import PROPOSAL_SCORE, SCORE

_CANVAS_PX = 512
"""Longest side of the canvas on which probabilities are pooled."""
_MAX_IOU = 0.7
"""Two masks of a larger IoU are one object."""


@dataclass(frozen=True)
class Instances:
    """The instances of one image, by label, then by falling rank; they may overlap."""

    labels: NDArray[np.int64]
    """(M,) from 1."""
    columns: dict[str, NDArray[np.float64]]
    """Score columns by name, (M,) each in [0, 1]; the score of the proposal is one of them. Where
    the proposals know their classes the score is theirs, the others are means over the mask."""
    num_components: NDArray[np.int64]
    """(M,) connected regions."""
    rles: tuple[Rle, ...]
    """At the image's size; none is empty."""


def instances_of(
    maps: ScoreMaps, index: int, size_hw: SizeHW, band_elements: int, max_iou: float = _MAX_IOU
) -> Instances:
    """Return the instances of image `index` of a batch.

    Args:
        maps: with proposals.
        index: place of the image in the batch.
        size_hw: the image's own size.
        band_elements: largest number of elements of a (Q, R, W) band of scores.
        max_iou: of two masks with a larger IoU only one stays.

    Raises:
        ValueError: the maps have no proposals.
    """
    if maps.proposals is None:
        raise ValueError("expected score maps with proposals, got None")
    proposals = maps.proposals[index]
    canvas_hw = maps.canvas_hw or limited_size(size_hw, _CANVAS_PX)
    scores = PooledScores(ScoredCanvas(maps, index, canvas_hw, band_elements))
    probs_NK = proposals.probs_NK
    if probs_NK is None:
        probs_NK = scores.class_probabilities(proposals.area_shares(canvas_hw))
    probs_N, labels_N = probs_NK.max(1)
    least = maps.rule.probability_threshold if maps.rule is not None else 0.0
    named = ((labels_N > 0) & (probs_N >= least)).nonzero()[:, 0]
    ranks = (probs_N * proposals.scores_N.to(probs_N.device))[named]
    masks = proposals.masks_Nhw[named] > 0
    kept = named[kept_masks(masks, labels_N[named], ranks, max_iou)]
    kept = kept[labels_N[kept].argsort(stable=True)]
    return _described(proposals, kept, labels_N[kept], scores, canvas_hw, size_hw)


def _described(
    proposals: Proposals,
    kept: Tensor,
    labels_M: Tensor,
    scores: PooledScores,
    canvas_hw: SizeHW,
    size_hw: SizeHW,
) -> Instances:
    """Return the instances of kept proposals, without those that have no pixel in the image."""
    probs_MK = None if proposals.probs_NK is None else proposals.probs_NK[kept]
    chosen = Proposals(proposals.masks_Nhw[kept], proposals.scores_N[kept], None, probs_MK)
    pieces = pieces_of(cut_outs(chosen.masks_Nhw, size_hw), size_hw)
    found = np.unique(pieces.owner)
    rles = encode_pieces(*pieces, size_hw) if len(found) else []
    _, component_owner = component_numbers(*pieces, size_hw)
    shares = chosen.area_shares(canvas_hw)[torch.from_numpy(found)]
    labels_M = labels_M[torch.from_numpy(found)]
    columns = scores.columns(shares, labels_M)
    columns[PROPOSAL_SCORE] = chosen.scores_N.double().cpu().numpy()[found]
    if probs_MK is not None:
        columns[SCORE] = probs_MK.amax(1).double().cpu().numpy()[found]
    return Instances(
        labels=labels_M.cpu().numpy(),
        columns=columns,
        num_components=np.bincount(component_owner, minlength=len(kept))[found],
        rles=tuple(rles),
    )
