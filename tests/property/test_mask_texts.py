"""Masks as text: numbers written at once are those written one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ovseg_core.rle.encode import encode_regions
from ovseg_core.rle.number_lists import Masks, brushes, numbers, run_lengths


@given(st.lists(st.integers(0, 2**31 - 1)), st.sampled_from([np.int32, np.int64]))
def test_same_text_as_one_by_one(values, kind):
    assert numbers(np.array(values, kind)) == ",".join(map(str, values)).encode()


@given(st.binary())
def test_bytes_too_and_parts_of_a_larger_array(data):
    values = np.frombuffer(data, np.uint8)
    assert numbers(values) == ",".join(map(str, values.tolist())).encode()
    assert numbers(values[1::2]) == ",".join(map(str, values[1::2].tolist())).encode()


def test_texts_of_several_images_and_of_none():
    mask = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    rle = encode_regions(mask, mask.shape)[1]
    image = Masks([rle.counts], mask.shape, [(0, 1, 2, 2)])
    empty = Masks([], (1, 1), [])
    assert run_lengths([image, empty, image]) == [[b"0,3,1"], [], [b"0,3,1"]]
    assert run_lengths([]) == brushes([]) == []
    (once,), none = brushes([image, empty])
    assert once.startswith(b"0,0,0,48,57,27,")  # 4 channels of 12 pixels, words of 8 bits
    assert none == []
