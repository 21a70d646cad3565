"""Proposals of an index map."""

import torch

from ovseg_core.proposals.shared.index_map import MAX_VALUES, of_index_map, reduced_size


def test_each_value_but_zero_is_a_proposal_in_the_order_of_values() -> None:
    found = of_index_map(torch.tensor([[0, 7, 7], [3, 3, 0]]))
    assert found.region_map().tolist() == [[-1, 1, 1], [0, 0, -1]]
    assert (found.masks_Nhw > 0).int().tolist() == [[[0, 0, 0], [1, 1, 0]], [[0, 1, 1], [0, 0, 0]]]
    assert found.scores_N.tolist() == [1, 1]


def test_masks_are_reduced_to_a_bounded_number_of_values() -> None:
    assert reduced_size(3, (30, 40)) == (30, 40)
    height, width = reduced_size(1000, (3000, 4000))
    assert 0.9 * MAX_VALUES < 1000 * height * width <= MAX_VALUES
    assert abs(height / width - 0.75) < 0.01
    assert reduced_size(5, (1, 10**9))[0] == 1
