"""Run lengths from anybody: a mask of exactly the stated size, or an error; never anything else."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from ovseg_core.rle.check import check_counts, mask_facts, texts_of
from ovseg_core.rle.coco_segmentation import encode_mask
from ovseg_core.rle.encode import decode_rle


def packed(numbers: list[int]) -> str:
    """Return numbers as COCO packs them, of any size and without taking differences."""
    text = ""
    for number in numbers:
        while True:
            group, number = number & 31, number >> 5
            more = number != (-1 if group & 16 else 0)
            text += chr(48 + group + (32 if more else 0))
            if not more:
                break
    return text


def true_mask(text: str, size_hw: tuple[int, int]) -> np.ndarray | None:
    """Decode with Python's integers, which have no size; None: no mask of this size."""
    lengths: list[int] = []
    number, shift = 0, 0
    for letter in text:
        group = ord(letter) - 48
        if not 0 <= group < 64:
            return None
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        number -= (group & 16) and 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number, shift = 0, 0
    if shift or min(lengths, default=-1) < 0 or sum(lengths) != size_hw[0] * size_hw[1]:
        return None
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size_hw, order="F")


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
POWERS = st.sampled_from([2**k + d for k in (4, 5, 29, 31, 32, 60, 62, 63, 64) for d in (-1, 0, 1)])
NUMBERS = st.lists(st.integers(-20, 90) | POWERS | POWERS.map(lambda n: -n), max_size=8)
TEXTS = st.text(max_size=12) | st.text("0123456789PQRSTo", max_size=9) | NUMBERS.map(packed)


@given(TEXTS, SIZES)
@settings(max_examples=300)
def test_any_text_is_a_mask_of_the_size_or_an_error(text, size):
    expected = true_mask(text, size)
    try:
        found = decode_rle(text, size)
    except ValueError:
        # Numbers of more groups than a mask needs are refused, whatever they say.
        assert expected is None or max(map(len, re.findall("[P-o]*[0-O]", text))) > 6
    else:
        assert found.shape == size
        np.testing.assert_array_equal(found, expected)


@given(st.lists(st.tuples(arrays(bool, SIZES), st.booleans(), TEXTS), max_size=6))
@settings(max_examples=200)
def test_facts_of_many_masks_are_those_of_each(given_masks):
    counts = [text if is_other else encode_mask(mask) for mask, is_other, text in given_masks]
    sizes = [mask.shape for mask, _, _ in given_masks]
    facts = mask_facts(texts_of(counts), np.array(sizes, np.int64).reshape(-1, 2))
    for place, (text, size) in enumerate(zip(counts, sizes, strict=True)):
        expected = true_mask(text, size)
        if facts.is_sound[place]:
            rle = {"size": list(size), "counts": encode_mask(expected)}
            assert facts.area_px[place] == expected.sum() > 0
            assert facts.is_canonical[place] or text != rle["counts"]
            if facts.is_canonical[place]:
                assert facts.boxes_xywh[place].tolist() == coco_mask.toBbox(rle).tolist()
        elif not given_masks[place][1]:
            assert not expected.any()


def test_empty_runs_are_told_apart_because_unions_end_there():
    counts = [packed([2, 0, 1, 3]), packed([0, 3, 3]), packed([6, 0]), packed([5, 1])]
    facts = mask_facts(texts_of(counts), np.array([(2, 3)] * 4))
    assert facts.is_canonical.tolist() == [False, True, False, True]
    assert facts.is_sound.tolist() == [True, True, False, True]


@pytest.mark.parametrize("size", [(0, 6), (-2, -3), (1 << 31, 1 << 31), (1 << 30, 2), (6, 0)])
def test_no_mask_has_a_size_that_no_image_has(size):
    with pytest.raises(ValueError, match="expected an image of"):
        check_counts("6", size)
    assert not mask_facts(texts_of(["06"]), np.array([size])).is_sound[0]


def test_large_masks_have_their_facts():
    height, width = 1 << 15, (1 << 15) - 3  # more pixels than 29 bits count
    counts = [packed([height * 5 + 7, height * 10 - 7, height * (width - 15)])]
    (rle,) = [{"size": [height, width], "counts": counts[0].encode()}]
    facts = mask_facts(texts_of(counts), np.array([(height, width)]))
    assert facts.is_sound[0]
    assert facts.area_px[0] == coco_mask.area(rle)
    assert facts.boxes_xywh[0].tolist() == coco_mask.toBbox(rle).tolist()


CRASHES = """
import numpy as np
from ovseg_core.rle.check import mask_facts, texts_of
from ovseg_core.rle.coco_segmentation import compress_segmentation
from ovseg_core.rle.encode import decode_rle
from tests.unit.ovseg_core.rle.test_check import packed
half, whole = 2**31, 2**32
texts = [
    "", "0", "o" * 9999, packed([5]), packed([2240, half]), packed([whole - 1, 2241]),
    packed([-5, 2245]), packed([half, half, 2240]), packed([2**62] * 4 + [2240]),
    packed([0, 2240 + whole]), packed([1, 2, 3, -9, 2000]), chr(233) * 5, chr(0) + "0", "1" * 10**6,
]
for size in ((40, 56), (2**31 - 1, 2**31 - 1), (2**16, 2**16), (0, 0), (-40, -56)):
    assert not mask_facts(texts_of(texts), np.array([size] * len(texts))).is_sound.any()
    for text in texts:
        for read in (
            lambda: decode_rle(text, size),
            lambda: compress_segmentation({"size": list(size), "counts": text}, size),
        ):
            try:
                read()
            except ValueError:
                continue
            raise SystemExit(f"{text[:20]!r} was taken for a mask of {size}")
"""


def test_inputs_that_ended_the_process_are_refused():
    done = subprocess.run([sys.executable, "-c", CRASHES], check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
