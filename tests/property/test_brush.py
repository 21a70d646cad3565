"""Brush bytes: equal to a plain port of the published encoder, and the way back is exact."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovseg_core import brush, row_major
from ovseg_core.rle import encode_regions


def _plain(values: np.ndarray) -> list[int]:
    """Label Studio's encoder, value by value, as annotation-tools.md section 2 tells it."""
    text = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    starts = [0, *(np.flatnonzero(np.diff(values.astype(int))) + 1), len(values)]
    for start, stop in pairwise(starts):
        value, length = f"{values[start]:08b}", stop - start
        if length == 1:
            text += "000000" + value
            continue
        while length > 2**16:
            text += f"111{2**16 - 1:016b}{value}"
            length -= 2**16
        kind, width = next(
            (kind, width) for kind, width in enumerate((3, 4, 8, 16)) if length <= 2**width
        )
        text += f"1{kind:02b}{length - 1:0{width}b}{value}"
    text += "0" * (8 - len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


def _channels(mask: np.ndarray) -> np.ndarray:
    return np.repeat((mask.ravel() > 0).astype(np.uint8) * 255, 4)


masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda size: arrays(np.uint8, size, elements=st.integers(0, 1))
)


@given(masks)
@settings(max_examples=200)
def test_same_bytes_as_the_plain_encoder_and_back(mask):
    written = brush.encode(mask)
    assert written.tolist() == _plain(_channels(mask))
    assert ((brush.opacity(written, mask.shape) > brush.SOLID) == (mask > 0)).all()
    for rle in encode_regions(mask, mask.shape).values():
        assert (brush.from_coco(rle.counts, mask.shape) == written).all()


@given(masks)
@settings(max_examples=200)
def test_run_lengths_by_rows_without_painting(mask):
    height, width = mask.shape
    for rle in encode_regions(mask, mask.shape).values():
        packed = {"counts": rle.counts.encode(), "size": [height, width]}
        assert row_major.plain(rle.counts).sum() == height * width, packed
        left, top, wide, high = (int(value) for value in rle.bbox_xywh)
        for box in (None, (top, left, high, wide)):
            y, x, h, w = box or (0, 0, height, width)
            runs = row_major.lengths(row_major.changes(rle.counts, mask.shape, box), h * w)
            painted = np.repeat(np.arange(len(runs)) % 2, runs).reshape(h, w)
            np.testing.assert_array_equal(painted, mask[y : y + h, x : x + w])
            assert (runs[1:] > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_long_runs_by_rows(seed):
    coarse = np.random.default_rng(seed).integers(0, 2, (5, 7)).astype(np.uint8)
    mask = np.kron(coarse, np.ones((61, 47), np.uint8))
    counts = encode_regions(mask, mask.shape)[1].counts
    assert brush.from_coco(counts, mask.shape).tolist() == _plain(_channels(mask))


@pytest.mark.parametrize(
    ("height", "width", "fill"),
    [(128, 128, 1), (128, 129, 0), (1, 1, 1), (2, 1, 0), (300, 451, 1), (16384, 4, 1)],
)
def test_runs_longer_than_a_width_holds(height, width, fill):
    mask = np.full((height, width), fill, np.uint8)
    for change in (None, (0, 0), (height - 1, width - 1), (height // 2, width // 2)):
        if change:
            mask[change] = 1 - fill
        written = brush.encode(mask)
        assert written.tolist() == _plain(_channels(mask))
        assert ((brush.opacity(written, mask.shape) > 0) == (mask > 0)).all()


@given(arrays(np.uint8, st.integers(1, 60).map(lambda n: 4 * n), elements=st.integers(0, 255)))
def test_soft_rims_and_single_values_are_read(values):
    size_hw = (1, len(values) // 4)
    assert (brush.opacity(_plain(values), size_hw)[0] == values[3::4]).all()


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, 7), min_size=1, max_size=9)), min_size=1
    )
)
def test_other_widths_words_and_literal_runs_are_read(items):
    """The format allows what the encoder never writes: the front end does write some of it."""
    text, values = "", []
    for repeat, numbers in items:
        numbers = [numbers[0]] * len(numbers) if repeat else numbers
        values += numbers
        words = numbers[:1] if repeat else numbers
        text += f"{repeat:d}10{len(numbers) - 1:05b}" + "".join(f"{n:03b}" for n in words)
    spare = -len(values) % 4
    text += "010" + f"{spare - 1:05b}" + "000" * spare if spare else ""
    values += [0] * spare
    header = f"{len(values):032b}{2:05b}" + "".join(f"{w - 1:04b}" for w in (1, 2, 5, 9))
    text = header + text
    text += "0" * (-len(text) % 8)
    data = [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]
    assert (brush.opacity(data, (1, len(values) // 4))[0] == np.array(values)[3::4]).all()


def test_run_lengths_of_coco_become_the_same_brush():
    mask = np.random.default_rng(0).integers(0, 2, (37, 53)).astype(np.uint8)
    counts = encode_regions(mask, mask.shape)[1].counts
    assert (brush.from_coco(counts, mask.shape) == brush.encode(mask)).all()


@pytest.mark.parametrize(
    "data", [[], [1, 2, 3], [300] * 20, [1.5] * 20, [0] * 20, ["a"] * 20, [255] * 20]
)
def test_what_is_no_brush_is_refused(data):
    with pytest.raises(ValueError, match=r"brush bytes|list of bytes"):
        brush.opacity(data, (4, 5))


def test_cut_off_bytes_are_refused():
    written = brush.encode(np.random.default_rng(0).integers(0, 2, (20, 30)))
    with pytest.raises(ValueError, match="end after"):
        brush.opacity(written[: len(written) // 2], (20, 30))
