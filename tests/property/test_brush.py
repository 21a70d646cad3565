"""Brush bytes: equal to a plain port of the published encoder, and the way back is exact."""

import tracemalloc
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
@settings(max_examples=300)
def test_brushes_of_all_masks_are_those_of_each(image):
    found, size_hw = image
    written = label_studio_brush.encode_brushes([_text(mask) for mask in found], size_hw)
    assert [each.tolist() for each in written] == [_plain(_channels(mask)) for mask in found]


@given(images(), st.booleans())
@settings(max_examples=300)
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
    data = _as_bytes(_header(len(values), 3, [1, 2, 5, 9]) + text)
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


def _plainly_decoded(data: list[int], num_pixels: int) -> list[int] | None:
    """Decode as Label Studio's converter does, one value at a time; None: it cannot."""
    text, place = "".join(f"{byte:08b}" for byte in data), 0

    def read(width: int) -> int:
        nonlocal place
        place += width
        if place > len(text):
            raise EOFError
        return int(text[place - width : place], 2)

    values: list[int] = []
    try:
        num_values, word = read(32), read(5) + 1
        if num_values != 4 * num_pixels or word > 8:
            return None
        widths = [read(4) + 1 for _ in range(4)]
        while len(values) < num_values:
            is_repeat, kind = read(1), read(2)
            count = read(widths[kind]) + 1
            values += [read(word)] * count if is_repeat else [read(word) for _ in range(count)]
    except EOFError:
        return None
    return values[:num_values]


def _header(num_values: int, word: int, widths: list[int]) -> str:
    return f"{num_values:032b}{word - 1:05b}" + "".join(f"{width - 1:04b}" for width in widths)


def _as_bytes(text: str) -> list[int]:
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


@given(
    arrays(np.uint8, st.integers(1, 20).map(lambda n: 4 * n), elements=st.integers(0, 255)),
    st.one_of(st.none(), st.sampled_from([0, 1, 2**31, 2**32 - 1]), st.integers(0, 200)),
    st.one_of(st.just(8), st.integers(1, 32)),
    st.one_of(st.just([3, 4, 8, 16]), st.lists(st.integers(1, 16), min_size=4, max_size=4)),
    st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), max_size=4),
    st.one_of(st.none(), st.integers(0, 60)),
)
@settings(max_examples=300)
def test_changed_brush_bytes_are_read_as_the_converter_does_or_refused(
    values, num_values, word, widths, changes, length
):
    """Honest bytes with another header, other bytes in between, and an early end."""
    size_hw = (1, len(values) // 4)
    text = "".join(f"{byte:08b}" for byte in _plain(values))[32 + 5 + 16 :]
    stated = len(values) if num_values is None else num_values
    data = _as_bytes(_header(stated, word, widths) + text)
    for place, byte in changes:
        data[place % len(data)] = byte
    data = data[:length]
    expected = _plainly_decoded(data, size_hw[1])
    try:
        found = label_studio_brush.decode_brush(data, size_hw)[0].tolist()
    except ValueError:
        found = None
    assert found == (expected and expected[3::4])


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9) | st.integers(-300, 2**70),
        lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=20,
    )
)
def test_what_is_no_list_of_bytes_is_refused(value):
    with pytest.raises(ValueError, match="list of bytes"):
        label_studio_brush.decode_brush(value, (3, 4))


def test_single_values_over_several_parts_are_read():
    rng = np.random.default_rng(0)
    text, values = "", []
    for count, is_repeat in ((65_536, 0), (40_000, 1), (65_000, 0), (3, 0), (65_536, 1), (9, 0)):
        numbers = rng.integers(0, 256, count).tolist()
        numbers = numbers[:1] * count if is_repeat else numbers
        values += numbers
        words = numbers[:1] if is_repeat else numbers
        text += f"{is_repeat}11{count - 1:016b}" + "".join(f"{number:08b}" for number in words)
    data = _as_bytes(_header(len(values), 8, [3, 4, 8, 16]) + text)
    found = label_studio_brush.decode_brush(data, (1, len(values) // 4))
    assert found[0].tolist() == values[3::4]
    with pytest.raises(ValueError, match="end after"):
        label_studio_brush.decode_brush(data[: 65_536 + 9], (1, len(values) // 4))


def test_memory_follows_the_image_not_the_brush_bytes():
    header = np.array(_as_bytes(_header(1 << 16, 1, [1, 1, 1, 1])), np.uint8)
    many = np.concatenate([header, np.zeros(4 << 20, np.uint8)])  # items of single zeros
    tracemalloc.start()
    found = label_studio_brush.decode_brush(many, (128, 128))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not found.any()
    assert peak < 32 << 20
