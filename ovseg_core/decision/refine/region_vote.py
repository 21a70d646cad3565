"""Majority vote: every region of an image takes the label of most of its pixels.

The last step of CLIPtrase (docs/methods.md 8, step 7). Its variant with masks of SAM is mentioned
in the paper and not in the authors' repository: that the same vote is held in each mask, and that
pixels of no mask keep their label, is our reading.

Shapes: H W pixels, R regions, K labels that occur in an image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ovseg_core.images.resize.nearest import nearest_source

_CELLS_AT_ONCE = 1 << 22
"""Cells of a table of votes, regions times labels, held at once: 32 MB."""
_PIXELS_AT_ONCE = 1 << 18
"""Pixels of the label map counted at once; each takes some 40 bytes."""


def vote_in_turn(
    labels_HW: Tensor, region_maps: Sequence[Tensor], voting_HW: Tensor | None = None
) -> Tensor:
    """Return the label map after a vote in each region map, one after the other.

    Args:
        labels_HW: integer labels from 0.
        region_maps: integer maps (h, w) of any size, resized to the label map by nearest; -1: no
            region.
        voting_HW: which pixels take part, bool; the others neither vote nor change; None: all.
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


def majority_labels(
    labels_HW: Tensor,
    regions_HW: Tensor,
    cells_at_once: int = _CELLS_AT_ONCE,
    pixels_at_once: int = _PIXELS_AT_ONCE,
) -> Tensor:
    """Return the label map after one vote.

    Args:
        labels_HW: integer labels from 0.
        regions_HW: integer region of each pixel; -1: none, the pixel keeps its label.
        cells_at_once: cells of the table of votes, regions times labels, that are held at once.
        pixels_at_once: pixels that are counted at once.

    Returns:
        The shape, dtype and device of `labels_HW`. Of labels with equally many pixels the lowest
        wins.
    """
    num_regions = int(regions_HW.max()) + 1
    if not num_regions:
        return labels_HW
    # The table holds only labels that occur in the image.
    used = labels_HW.flatten().bincount() > 0
    present_K, number = used.nonzero()[:, 0], used.cumsum(0) - 1
    step = max(cells_at_once // len(present_K), 1)
    band_rows = max(pixels_at_once // labels_HW.shape[1], 1)
    bands = list(zip(labels_HW.split(band_rows), regions_HW.split(band_rows), strict=True))
    winner_R = labels_HW.new_empty(num_regions)
    for start in range(0, num_regions, step):
        stop = min(start + step, num_regions)
        # The first row of the table is for pixels of no region, or of regions in other tables.
        table = present_K.new_zeros((stop - start + 1) * len(present_K))
        for labels, regions in bands:
            row = regions.long() - start + 1
            if num_regions > step:
                row = torch.where(row <= stop - start, row, 0)
            votes = row.clamp_(min=0) * len(present_K) + number[labels.long()]
            table += votes.flatten().bincount(minlength=len(table))
        table = table[len(present_K) :]
        most_R = table.view(stop - start, -1).max(dim=1).indices  # ties: the first
        winner_R[start:stop] = present_K[most_R].to(winner_R.dtype)
    voted = [
        torch.where(regions >= 0, winner_R[regions.clamp(min=0).long()], labels)
        for labels, regions in bands
    ]
    return torch.cat(voted)
