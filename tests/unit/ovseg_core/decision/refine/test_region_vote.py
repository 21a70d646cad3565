"""The majority vote of regions over a label map."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch.nn import functional

from ovseg_core.decision.decide import decide
from ovseg_core.decision.refine.region_vote import majority_labels, vote_in_turn
from ovseg_core.images.resize.nearest import nearest_source
from ovseg_core.segmenter import ScoreMaps

SHAPE = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


def plain_vote(labels: NDArray[Any], regions: NDArray[Any]) -> NDArray[Any]:
    """Region by region; `np.unique` is sorted and `argmax` takes the first."""
    voted = labels.copy()
    for number in np.unique(regions[regions >= 0]):
        values, counts = np.unique(labels[regions == number], return_counts=True)
        voted[regions == number] = values[counts.argmax()]
    return voted


@given(data=st.data(), shape=SHAPE, cells=st.sampled_from([1, 7, 1 << 22]))
def test_majority_labels_equals_the_vote_region_by_region(
    data: st.DataObject, shape: tuple[int, int], cells: int
) -> None:
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 4)))
    regions = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(-1, 6)))
    voted = majority_labels(torch.from_numpy(labels), torch.from_numpy(regions), cells, cells)
    np.testing.assert_array_equal(voted.numpy(), plain_vote(labels, regions))


def test_majority_labels_of_a_tie_is_the_lowest() -> None:
    labels = torch.tensor([[7, 300, 2], [2, 7, 300]], dtype=torch.int32)
    voted = majority_labels(labels, torch.tensor([[0, 0, -1], [0, 0, 5]]))
    assert voted.tolist() == [[7, 7, 2], [7, 7, 300]]
    assert voted.dtype == torch.int32
    assert labels[0, 1] == 300, "the map that was handed over is as it was"


def test_vote_in_turn_on_the_label_maps_grid() -> None:
    labels = torch.tensor([[1, 1, 2, 0, 3, 3], [1, 2, 2, 0, 3, 3]])
    halves = torch.tensor([[4, 9]], dtype=torch.int16)  # three columns each
    after_halves = torch.tensor([[1, 1, 1, 3, 3, 3], [1, 1, 1, 3, 3, 3]])
    assert torch.equal(vote_in_turn(labels, [halves]), after_halves)
    right = torch.tensor([[-1, 0, 0]])  # columns 2 to 5
    after_right = torch.tensor([[1, 1, 3, 3, 3, 3], [1, 2, 3, 3, 3, 3]])
    assert torch.equal(vote_in_turn(labels, [right]), after_right)
    after_both = torch.tensor([[1, 1, 3, 3, 3, 3], [1, 1, 3, 3, 3, 3]])
    assert torch.equal(vote_in_turn(labels, [halves, right]), after_both)
    assert torch.equal(vote_in_turn(labels, []), labels)


@pytest.mark.parametrize("gated", [False, True])
def test_score_columns_are_those_of_the_voted_label(gated: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = tuple((torch.rand(3, 4, 5, generator=generator),) for _ in range(2))
    size = (12, 17)
    theta = tuple(torch.linspace(0, 1, 5)[None] for _ in levels) if gated else None
    fusion = "foreground_gate" if gated else "none"
    maps = ScoreMaps(levels, size, theta, fusion, "cosine", 5.0)
    regions = torch.tensor([[0, 0, 1], [-1, 2, 2]])
    plain, voted = (
        decide(replace(maps, regions=chosen), [size, size])
        for chosen in (None, ((regions,), ()))  # the second image has no regions
    )
    rows, columns = (nearest_source(n, to) for n, to in zip(regions.shape, size, strict=True))
    theirs = regions.numpy()[rows][:, columns].copy()
    if theta is not None:
        near = functional.interpolate(theta[0][None, None], size, mode="bilinear")[0]
        theirs[near[0].numpy() <= 0.5] = -1  # neither votes nor changes
    expected = plain_vote(plain[0].label_map, theirs)
    assert (expected != plain[0].label_map).mean() > 0.05
    np.testing.assert_array_equal(voted[0].label_map, expected)
    probs = (5 * functional.interpolate(levels[0][0][None], size, mode="bilinear")[0]).softmax(0)
    if theta is not None:
        probs = torch.cat([1 - near, probs[1:] / probs[1:].sum(0) * near])
    own = np.take_along_axis(probs.numpy(), expected[None].astype(np.intp), axis=0)[0]
    np.testing.assert_allclose(voted[0].confidence, own, atol=1e-6)
    lost = own < probs.numpy().max(0) - 1e-6
    assert lost.any()
    assert not voted[0].margin[lost].any()
    np.testing.assert_array_equal(voted[0].class_mean_prob, plain[0].class_mean_prob)
    np.testing.assert_array_equal(voted[1].label_map, plain[1].label_map)
