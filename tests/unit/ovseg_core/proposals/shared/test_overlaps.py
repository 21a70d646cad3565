"""Boxes of masks, and which of two alike stays."""

import torch

from ovseg_core.proposals.shared.overlaps import best_by_box, mask_boxes


def test_boxes_of_masks() -> None:
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 6, 3], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_of_two_boxes_that_are_nearly_one_the_better_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 24, 4]])
    assert best_by_box(boxes, torch.tensor([0.5, 0.9, 0.6]), 0.7).tolist() == [1, 2]
    assert best_by_box(boxes, torch.tensor([0.5, 0.9, 0.6]), 0.95).tolist() == [1, 2, 0]
