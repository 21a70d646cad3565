"""Masks as text: numbers written at once are those written one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ovseg_core.rle.encode import encode_rle
from ovseg_core.rle.number_lists import RleMasks, brush_texts, cvat_run_texts, number_list


@given(st.lists(st.integers(0, 2**31 - 1)), st.sampled_from([np.int32, np.int64]))
def test_same_text_as_one_by_one(values, kind):
    assert number_list(np.array(values, kind)) == ",".join(map(str, values)).encode()


@given(st.binary())
def test_bytes_too_and_parts_of_a_larger_array(data):
    values = np.frombuffer(data, np.uint8)
    assert number_list(values) == ",".join(map(str, values.tolist())).encode()
    assert number_list(values[1::2]) == ",".join(map(str, values[1::2].tolist())).encode()


def test_texts_of_several_images_and_of_none():
    mask = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    rle = encode_rle(mask, mask.shape)[1]
    image = RleMasks([rle.counts], mask.shape, [(0, 1, 2, 2)])
    empty = RleMasks([], (1, 1), [])
    assert cvat_run_texts([image, empty, image]) == [[b"0,3,1"], [], [b"0,3,1"]]
    assert cvat_run_texts([]) == brush_texts([]) == []
    (once,), none = brush_texts([image, empty])
    assert once.startswith(b"0,0,0,48,57,27,")  # 4 channels of 12 pixels, words of 8 bits
    assert none == []
