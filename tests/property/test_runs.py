"""Where runs begin and end, of many masks at once; garbage is no mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from ovseg_core.rle.check import check_counts
from ovseg_core.rle.runs import run_edges, run_lengths

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 90))
MASKS = SIZES.flatmap(
    lambda size: st.lists(arrays(bool, size, elements=st.booleans()), min_size=1, max_size=4)
)


def _text(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def _edges(mask: np.ndarray) -> list[int]:
    outside = np.concatenate([[False], mask.ravel(order="F"), [False]])
    return np.flatnonzero(outside[1:] != outside[:-1]).tolist()


@given(MASKS, st.booleans())
@settings(max_examples=200)
def test_edges_are_those_of_the_pixels(masks, stacked):
    found = run_edges(list(map(_text, masks)), masks[0].size, stacked=stacked)
    expected = [_edges(mask) for mask in masks]
    assert found.bounds == np.cumsum([0, *map(len, expected)]).tolist()
    assert found.num_runs == [len(edges) // 2 for edges in expected]
    step = masks[0].size * stacked
    assert found.places.tolist() == [
        place + index * step for index, edges in enumerate(expected) for place in edges
    ]


def test_no_masks_have_no_edges():
    found = run_edges([], 12, stacked=True)
    assert (found.places.tolist(), found.bounds) == ([], [0])


@pytest.mark.parametrize("length", [1, 31, 2**20, 2**31 - 1, 2**31, 2**40])
def test_long_runs(length):
    """Of the size of a mask: a plane may have more pixels than 32 bits count."""
    groups = [(length >> shift) & 31 for shift in range(0, length.bit_length() + 1, 5)]
    text = "".join(chr(48 + 32 + group) for group in groups[:-1]) + chr(48 + groups[-1])
    assert run_lengths(text * 2).tolist() == [length, length]
    assert run_edges([text * 2], 2 * length).places.tolist() == [length, 2 * length]


def test_a_number_of_too_many_bits_is_refused():
    with pytest.raises(ValueError, match="run lengths"):
        check_counts("o" * 100_000 + "1", (10, 7))
