"""How deep numbers become 8 bits: the same picture is the same grey, however it is stored."""

import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from ovseg_core.images.decoding.decode import decode
from ovseg_core.images.decoding.value_range import DeclaredRange, to_8_bits
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError

GREY = (np.mgrid[:24, :36][0] * 9 + np.mgrid[:24, :36][1]).astype(np.uint8)
GREY[0, 0], GREY[-1, -1] = 0, 255
NOTHING = DeclaredRange()


def tiff(values: np.ndarray, **tags: object) -> bytes:
    """Return a plain TIFF; `tags` are numbers of tags with an underscore in front."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[int(name.strip("_"))] = value
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF", tiffinfo=info)
    return file.getvalue()


def shown(data: bytes) -> np.ndarray:
    return decode(data, ImageConfig()).rgb[..., 0].astype(int)


def saved(values: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "PPM"])
def test_sixteen_bits_over_the_full_range_are_divided_by_257(kind: str) -> None:
    image = decode(saved(GREY.astype(np.uint16) * 257, kind), ImageConfig())
    np.testing.assert_array_equal(image.rgb[..., 0], GREY)
    assert image.value_range == "0 to 65535"


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_fewer_bits_in_sixteen_are_not_dark(kind: str, bits: int) -> None:
    values = np.round(GREY / 255.0 * (2**bits - 1)).astype(np.uint16)
    image = decode(saved(values, kind), ImageConfig())
    assert np.abs(image.rgb[..., 0].astype(int) - GREY).max() <= 1
    assert image.value_range == f"0 to {2**bits - 1}"


@pytest.mark.parametrize("bits", [17, 18, 20, 22, 26, 31])
@pytest.mark.parametrize("kind", [np.uint32, np.int32])
def test_fewer_bits_in_thirty_two_are_not_dark(kind: type, bits: int) -> None:
    values = np.round(GREY / 255.0 * (2.0**bits - 1)).astype(kind)
    levels, rule = to_8_bits(values, NOTHING)
    assert np.abs(levels.astype(int) - GREY).max() <= 1
    assert rule == f"0 to {2**bits - 1}"


def test_colours_of_twelve_bits_in_sixteen_are_not_dark() -> None:
    colours = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], 2)
    deep = np.round(colours / 255.0 * 4095).astype(np.uint16)
    for kind in (".tiff", ".png"):
        data = cv2.imencode(kind, deep[..., ::-1])[1].tobytes()
        image = decode(data, ImageConfig())
        assert np.abs(image.rgb.astype(int) - colours).max() <= 1
        assert image.value_range == "0 to 4095"


def test_a_tiff_whose_zero_is_white_is_no_negative() -> None:
    data = tiff(GREY.astype(np.uint16) * 257, _262=0)
    np.testing.assert_array_equal(shown(data), 255 - GREY.astype(int))
    assert "zero is white" in decode(data, ImageConfig()).value_range


def test_numbers_of_32_bits_without_sign_do_not_wrap() -> None:
    values = GREY.astype(np.uint32) * 0x01010101
    data = tiff(values.view(np.int32))
    signed, unsigned = (struct.pack("<HHII", 339, 3, 1, kind) for kind in (2, 1))
    assert signed in data
    data = data.replace(signed, unsigned)
    np.testing.assert_array_equal(shown(data), GREY)


def test_a_number_for_nothing_does_not_darken_the_rest() -> None:
    values = (GREY / 255.0).astype(np.float32)
    for number, tags in ((3.4e38, {}), (np.nan, {}), (-9999.0, {"_42113": "-9999"})):
        with_nothing = values.copy()
        with_nothing[3, 4] = number
        grey = shown(tiff(with_nothing, **tags))
        expected = GREY.astype(int)
        expected[3, 4] = 0
        assert np.abs(grey - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "spot"),
    [
        (GREY.astype(np.float32) / 255, 200.0),
        (GREY.astype(np.float32), 1e20),
        (GREY.astype(np.int32), 2147483647),
        (GREY.astype(np.uint32), 2**32 - 1),
    ],
)
def test_one_far_number_does_not_darken_the_rest(values: np.ndarray, spot: float) -> None:
    values = values.copy()
    values[5, 7] = spot
    expected = GREY.copy()
    expected[5, 7] = 255
    levels, rule = to_8_bits(values, NOTHING)
    np.testing.assert_array_equal(levels, expected)
    assert rule.endswith(", 1 far above")


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.int32])
@pytest.mark.parametrize("nothing", [-9999, -32768])
def test_a_customary_number_for_nothing_does_not_whiten_the_rest(kind: type, nothing: int) -> None:
    heights = (GREY.astype(kind) * 7 + 1200).astype(kind)
    heights[:8] = nothing
    levels, rule = to_8_bits(heights, NOTHING)
    alone, same_rule = to_8_bits(heights[8:], NOTHING)
    np.testing.assert_array_equal(levels[8:], alone)
    assert (levels[:8] == 0).all()
    assert rule == same_rule


def test_a_picture_with_bright_parts_keeps_its_range() -> None:
    values = np.full((40, 60), 900, np.float32)
    values[:1] = 40000
    assert to_8_bits(values, NOTHING)[1] == "0 to 65535"
    spot = np.zeros((40, 60), np.uint32)
    spot[3, 4] = 2**32 - 1
    assert to_8_bits(spot, NOTHING)[0].max() == 255
    assert to_8_bits(spot, NOTHING)[1] == "0 to 4294967295"


def test_a_range_that_the_file_states_is_used() -> None:
    values = GREY.astype(np.uint16) + 1000
    data = tiff(values, _280=1000, _281=1255)
    np.testing.assert_array_equal(shown(data), GREY)


def test_heights_go_from_percentile_to_percentile() -> None:
    heights = np.linspace(-300.0, 4000.0, 24 * 36, dtype=np.float32).reshape(24, 36)
    image = decode(tiff(heights), ImageConfig())
    assert image.value_range.endswith("(percentiles 0.5 and 99.5)")
    assert image.rgb[0, 0, 0] == 0
    assert image.rgb[-1, -1, 0] == 255
    assert abs(int(image.rgb[12, 0, 0]) - 128) <= 2


def test_an_image_without_any_number_has_a_code() -> None:
    with pytest.raises(ImageError) as caught:
        decode(tiff(np.full((9, 14), np.nan, np.float32)), ImageConfig())
    assert caught.value.code is ErrorCode.UNDECODABLE


@pytest.mark.parametrize("value", [-7, 0, 100_000])
def test_a_constant_image_is_one_grey(value: int) -> None:
    grey, _ = to_8_bits(np.full((5, 7), value, np.int32), NOTHING)
    assert len(np.unique(grey)) == 1


@given(
    st.sampled_from([np.uint16, np.int16, np.int32, np.uint32, np.float32]),
    st.integers(0, 2**32 - 1),
    st.floats(1e-3, 1e6),
)
def test_order_is_kept_and_nothing_wraps(kind: type, seed: int, scale: float) -> None:
    values = np.random.default_rng(seed).normal(0.3, 1.0, (6, 9)) * scale
    if kind is not np.float32:
        limits = np.iinfo(kind)
        values = np.clip(values, limits.min, limits.max)
    values = values.astype(kind)
    grey, _ = to_8_bits(values, NOTHING)
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(grey.ravel()[order].astype(int)) >= 0).all()
