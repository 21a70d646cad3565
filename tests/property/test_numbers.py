"""Numbers written at once are those written one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exporters._numbers import text


@given(st.lists(st.integers(0, 2**31 - 1)), st.sampled_from([np.int32, np.int64]))
def test_same_text_as_one_by_one(values, kind):
    assert text(np.array(values, kind)) == ",".join(map(str, values))


@given(st.binary())
def test_bytes_too_and_parts_of_a_larger_array(data):
    values = np.frombuffer(data, np.uint8)
    assert text(values) == ",".join(map(str, values.tolist()))
    assert text(values[1::2]) == ",".join(map(str, values[1::2].tolist()))
