"""Every region of an image takes the label that most of its pixels have (CLIPtrase, SAM's masks).

The last step of CLIPtrase (methods.md 8, step 7). Its variant with masks of SAM is mentioned in the
paper and not in the authors' repository: that the same vote is held in each mask, and that pixels
of no mask keep their label, is our reading. Shapes: R regions, K labels, P pixels of regions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ovseg_core.nearest import nearest_source

_CELLS_AT_ONCE = 1 << 22
"""Of a table of votes, regions times labels: 32 MB."""


def vote_in_turn(
    labels_HW: Tensor, region_maps: Sequence[Tensor], voting_HW: Tensor | None = None
) -> Tensor:
    """Return the label map after a vote in each region map, one after the other.

    Args:
        labels_HW: integer labels from 0.
        region_maps: integer maps (h, w) of any size, brought to the label map's by nearest; -1: no
            region.
        voting_HW: which pixels take part, bool; the others neither vote nor change. None: all.
    """
    for regions_hw in region_maps:
        rows, columns = (
            torch.from_numpy(nearest_source(num_in, num_out)).to(labels_HW.device)
            for num_in, num_out in zip(regions_hw.shape, labels_HW.shape, strict=True)
        )
        regions_HW = regions_hw.to(labels_HW.device)[rows][:, columns]
        if voting_HW is not None:
            regions_HW = regions_HW.masked_fill(~voting_HW, -1)
        labels_HW = majority_labels(labels_HW, regions_HW)
    return labels_HW


def majority_labels(labels_HW: Tensor, regions_HW: Tensor) -> Tensor:
    """Return the label map after one vote.

    Args:
        labels_HW: integer labels from 0.
        regions_HW: integer region of each pixel; -1: none, the pixel keeps its label.

    Returns:
        Like `labels_HW`. Of labels with equally many pixels the lowest wins.
    """
    voting_HW = regions_HW >= 0
    regions_P, labels_P = regions_HW[voting_HW].long(), labels_HW[voting_HW].long()
    if not len(regions_P):
        return labels_HW
    # Labels and regions without pixels take no room in the table.
    present_K, labels_P = _numbered(labels_P)
    present_R, regions_P = _numbered(regions_P)
    step = max(_CELLS_AT_ONCE // len(present_K), 1)
    winners = []
    for start in range(0, len(present_R), step):
        stop = min(start + step, len(present_R))
        here = (regions_P >= start) & (regions_P < stop) if stop - start < len(present_R) else ...
        votes = (regions_P[here] - start) * len(present_K) + labels_P[here]
        table_RK = votes.bincount(minlength=(stop - start) * len(present_K)).view(stop - start, -1)
        winners.append(table_RK.max(dim=1).indices)  # ties: the first
    voted_HW = labels_HW.clone()
    voted_HW[voting_HW] = present_K[torch.cat(winners)][regions_P].to(labels_HW.dtype)
    return voted_HW


def _numbered(values_P: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values that occur, ascending, and for each element the number of its value."""
    used = values_P.bincount() > 0
    return used.nonzero()[:, 0], (used.cumsum(0) - 1)[values_P]
