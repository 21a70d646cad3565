"""Brush bytes: equal to a plain port of the published encoder, and the way back is exact."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from ovseg_core.rle import label_studio_brush, row_major


def _plain(values: np.ndarray) -> list[int]:
    """Encode as Label Studio does, one value at a time."""
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


def _text(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, *mask.shape
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))
masks = SIZES.flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 1)))


@st.composite
def images(draw: st.DrawFn) -> tuple[list[np.ndarray], tuple[int, int]]:
    """Any masks of one image, also none, empty and full ones, of one pixel, one pixel wide."""
    size_hw = draw(SIZES)
    pixels = arrays(np.uint8, size_hw, elements=st.integers(0, 1))
    one = st.integers(0, size_hw[0] * size_hw[1] - 1).map(
        lambda place: (np.arange(size_hw[0] * size_hw[1]) == place).reshape(size_hw)
    )
    blocks = st.integers(0, 2**32 - 1).map(
        lambda seed: np.kron(
            np.random.default_rng(seed).integers(0, 2, (7, 7)), np.ones((4, 4), int)
        )[: size_hw[0], : size_hw[1]]
    )
    flat = st.integers(0, 1).map(lambda fill: np.full(size_hw, fill, np.uint8))
    return draw(st.lists(st.one_of(pixels, one, blocks, flat), max_size=5)), size_hw


@given(masks)
@settings(max_examples=200)
def test_same_bytes_as_the_plain_encoder_and_back(mask):
    written = label_studio_brush.encode_brush(mask)
    assert written.tolist() == _plain(_channels(mask))
    assert (
        (label_studio_brush.decode_brush(written, mask.shape) > label_studio_brush.SOLID)
        == (mask > 0)
    ).all()


@given(images())
@settings(max_examples=300, deadline=None)
def test_brushes_of_all_masks_are_those_of_each(image):
    found, size_hw = image
    written = label_studio_brush.encode_brushes([_text(mask) for mask in found], size_hw)
    assert [each.tolist() for each in written] == [_plain(_channels(mask)) for mask in found]


@given(images(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_run_lengths_by_rows_without_painting(image, in_boxes):
    found, size_hw = image
    boxes = [_box(mask) if in_boxes else (0, 0, *size_hw) for mask in found]
    counts = [_text(mask) for mask in found]
    runs = row_major.row_major_runs(counts, size_hw, boxes if in_boxes else None)
    assert len(runs.bounds) == len(runs.rests) + 1 == len(found) + 1
    for index, (mask, (top, left, height, width)) in enumerate(zip(found, boxes, strict=True)):
        lengths = [*runs.lengths[runs.bounds[index] : runs.bounds[index + 1]], runs.rests[index]]
        assert len(lengths) % 2 == 1
        assert all(lengths[1:-1])
        painted = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(height, width)
        np.testing.assert_array_equal(
            painted, mask[top : top + height, left : left + width].astype(int)
        )


@pytest.mark.parametrize("seed", range(4))
def test_long_runs_by_rows(seed):
    coarse = np.random.default_rng(seed).integers(0, 2, (5, 7)).astype(np.uint8)
    mask = np.kron(coarse, np.ones((61, 147), np.uint8))
    written = label_studio_brush.encode_brushes([_text(mask), _text(1 - mask)], mask.shape)
    assert written[0].tolist() == _plain(_channels(mask))
    assert written[1].tolist() == _plain(_channels(1 - mask))


def test_masks_of_more_pixels_together_than_32_bits_count():
    """A photograph of 100 megapixels with 25 masks: 2.5 thousand million places."""
    size_hw = (10_000, 10_000)
    last = 10_000 * 10_000 - 1
    runs = row_major.row_major_runs([_spelled([last, 1])] * 25, size_hw)
    assert runs.lengths.tolist() == [last, 1] * 25
    assert runs.rests == [0] * 25


def _spelled(lengths: list[int]) -> str:
    size = [10_000, 10_000]
    return coco_mask.frPyObjects({"counts": lengths, "size": size}, *size)["counts"].decode()


@pytest.mark.parametrize(
    ("height", "width", "fill"),
    [(128, 128, 1), (128, 129, 0), (1, 1, 1), (2, 1, 0), (300, 451, 1), (16384, 4, 1)],
)
def test_runs_longer_than_a_width_holds(height, width, fill):
    mask = np.full((height, width), fill, np.uint8)
    for change in (None, (0, 0), (height - 1, width - 1), (height // 2, width // 2)):
        if change:
            mask[change] = 1 - fill
        written = label_studio_brush.encode_brush(mask)
        assert written.tolist() == _plain(_channels(mask))
        assert ((label_studio_brush.decode_brush(written, mask.shape) > 0) == (mask > 0)).all()
        (from_coco,) = label_studio_brush.encode_brushes([_text(mask)], mask.shape)
        assert (from_coco == written).all()


@given(arrays(np.uint8, st.integers(1, 60).map(lambda n: 4 * n), elements=st.integers(0, 255)))
def test_soft_rims_and_single_values_are_read(values):
    size_hw = (1, len(values) // 4)
    assert (label_studio_brush.decode_brush(_plain(values), size_hw)[0] == values[3::4]).all()


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
    assert (
        label_studio_brush.decode_brush(data, (1, len(values) // 4))[0] == np.array(values)[3::4]
    ).all()


@pytest.mark.parametrize(
    "data", [[], [1, 2, 3], [300] * 20, [1.5] * 20, [0] * 20, ["a"] * 20, [255] * 20]
)
def test_damaged_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"brush bytes|list of bytes"):
        label_studio_brush.decode_brush(data, (4, 5))


def test_bytes_that_end_early_are_refused():
    written = label_studio_brush.encode_brush(np.random.default_rng(0).integers(0, 2, (20, 30)))
    with pytest.raises(ValueError, match="end after"):
        label_studio_brush.decode_brush(written[: len(written) // 2], (20, 30))
