"""RLE of masks that may overlap, against pycocotools."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.rle.encode import Rle
from ovseg_core.rle.stack import CutOut, encode_stack, whole

STACKS = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9))


def expected(mask: NDArray[np.bool_]) -> Rle:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    return Rle(rle["counts"].decode(), int(coco_mask.area(rle)), (x, y, w, h))


@given(STACKS)
def test_each_mask_is_encoded_as_pycocotools_does(stack: NDArray[np.bool_]) -> None:
    found = encode_stack(map(whole, torch.from_numpy(stack)), stack.shape[1:])
    assert found == {n: expected(mask) for n, mask in enumerate(stack) if mask.any()}


@given(STACKS, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_a_cut_out_is_where_it_says(
    stack: NDArray[np.bool_], above: int, left: int, below: int, right: int
) -> None:
    padded = np.pad(stack, ((0, 0), (above, below), (left, right)))
    cut_outs = [CutOut(torch.from_numpy(mask), above, left) for mask in stack]
    found = encode_stack(cut_outs, padded.shape[1:])
    assert found == {n: expected(mask) for n, mask in enumerate(padded) if mask.any()}
