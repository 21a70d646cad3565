"""Numbers written at once are those written one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exporters._numbers import text


@given(st.lists(st.integers(0, 10**12)), st.sampled_from([",", ", ", " "]))
def test_same_text_as_one_by_one(values, separator):
    assert text(np.array(values, np.int64), separator) == separator.join(map(str, values))


@given(st.binary())
def test_bytes_too(data):
    values = np.frombuffer(data, np.uint8)
    assert text(values, ",") == ",".join(map(str, values.tolist()))
