"""Proposals: their masks at other sizes."""

import pytest
import torch
import torch.nn.functional as F

from ovseg_core.images.proposal_masks import Proposals, smallest_on_top


def proposals(masks: torch.Tensor) -> Proposals:
    return Proposals(masks, torch.ones(len(masks)))


def test_smallest_of_overlapping_masks_is_on_top() -> None:
    masks = torch.zeros(4, 2, 5, dtype=torch.bool)
    masks[0, 0, 1] = True
    masks[1, :, :4] = True
    masks[2, 0, :3] = masks[3, 0, 2:5] = True  # of one size: the first is on top
    assert smallest_on_top(masks).tolist() == [[2, 0, 2, 3, 3], [1, 1, 1, 1, -1]]
    assert (smallest_on_top(torch.zeros(0, 2, 5, dtype=torch.bool)) == -1).all()


def test_masks_are_enlarged_before_the_threshold() -> None:
    masks = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(masks[None], size=(40, 70), mode="bilinear")[0] > 0
    assert torch.equal(proposals(masks).enlarged((40, 70)), expected)
    assert torch.equal(proposals(masks.half()).enlarged((6, 9)), masks.half() > 0)


def test_shares_of_cells_sum_to_the_area() -> None:
    masks = torch.randn(3, 60, 90, generator=torch.Generator().manual_seed(0))
    shares = proposals(masks).area_shares((6, 9))
    areas = (masks > 0).flatten(1).sum(1) / 100
    torch.testing.assert_close(shares.flatten(1).sum(1), areas)
    assert set(proposals(masks).area_shares((70, 90)).unique().tolist()) == {0.0, 1.0}


def test_masks_and_scores_belong_together() -> None:
    for masks, scores in (((2, 3, 4), 3), ((2, 0, 4), 2)):
        with pytest.raises(ValueError, match=r"expected masks \(N, h, w\) and scores \(N,\)"):
            Proposals(torch.zeros(masks), torch.ones(scores))
