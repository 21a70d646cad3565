"""Attention in the last block that is limited to regions."""

import pytest
import torch

from ovseg_core.dense.last_block import AttentionPolicy, Neighbourhood, SoftmaxSum, same_region

GRID_HW = (2, 3)
REGIONS = torch.tensor([[[1, 1, 2], [0, 1, 2]], [[0, 0, 0], [0, 0, 0]]])


def test_patches_attend_within_their_region_and_free_ones_to_all() -> None:
    allowed = same_region(REGIONS)
    assert allowed.shape == (2, 1, 7, 7)
    assert allowed[1].all()
    assert allowed[0, 0, 0].all(), "the class token attends to all"
    assert allowed[0, 0, 1].nonzero()[:, 0].tolist() == [1, 2, 5]
    assert allowed[0, 0, 3].nonzero()[:, 0].tolist() == [3, 6]
    assert allowed[0, 0, 4].all(), "a patch of no region attends to all"


@pytest.mark.parametrize("name", ["sum", "neighbourhood"])
def test_a_region_alone_gives_its_patches_the_same_values(name: str) -> None:
    def policy(limit: torch.Tensor) -> AttentionPolicy:
        if name == "sum":
            return SoftmaxSum(("qq", "kk"), limit)
        return Neighbourhood(GRID_HW, 2.0, torch.device("cpu"), limit)

    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    limit = same_region(REGIONS)
    out = policy(limit)(q, k, v)
    inside = [1, 2, 5]
    others = [0, 3, 4, 6]
    for changed in (q, k, v):
        changed[:, :, others] += 1
    again = policy(limit)(q, k, v)
    torch.testing.assert_close(again[0, :, inside], out[0, :, inside])
    assert not torch.allclose(again[1, :, inside], out[1, :, inside])
