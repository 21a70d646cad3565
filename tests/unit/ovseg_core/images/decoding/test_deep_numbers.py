"""Colours of 16 bits: the same picture, whatever the format, the page and the alpha."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ovseg_core.images.decoding.decode import decode
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError
from tests.helpers.image_files import encoded, picture
from tests.helpers.tiff_files import Page, tiff_file

HEIGHT, WIDTH = 40, 60
"""OpenCV writes no smaller JPEG 2000."""
PICTURE = picture(HEIGHT, WIDTH)
OPAQUE = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
HALF_CLEAR = np.where(np.arange(WIDTH)[:, None] < WIDTH // 2, 0, OPAQUE).astype(np.uint8)
ALPHA_IS_MULTIPLIED, ALPHA_IS_NOT, NO_ALPHA = {338: 1}, {338: 2}, {338: 0}
DEFLATE = [cv2.IMWRITE_TIFF_COMPRESSION, 8]
LOSSLESS = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]


def deep(image: np.ndarray, bits: int) -> np.ndarray:
    """Return 8 bits as numbers of more, in 16."""
    return np.round(image / 255.0 * (2**bits - 1)).astype(np.uint16)


def by_opencv(numbers: np.ndarray, ending: str, *options: int) -> bytes:
    bgr = numbers[..., [2, 1, 0, 3][: numbers.shape[2]]]
    return cv2.imencode(ending, bgr, list(options))[1].tobytes()


def png(numbers: np.ndarray, color_type: int, extra: bytes = b"") -> bytes:
    """Return a PNG of 16 bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width = numbers.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in numbers)
    extra = chunk(b"tRNS", extra) if extra else b""
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


def ppm(numbers: np.ndarray, white: int = 65535) -> bytes:
    return b"P6 # by hand\n%d %d\n%d\n" % (WIDTH, HEIGHT, white) + numbers.astype(">u2").tobytes()


def plain_ppm(numbers: np.ndarray) -> bytes:
    return b"P3\n%d %d\n65535\n" % (WIDTH, HEIGHT) + b"\n".join(b"%d" % n for n in numbers.flat)


def joined(numbers: np.ndarray, alpha: np.ndarray, bits: int) -> np.ndarray:
    return np.dstack([numbers, deep(alpha, bits)])


OTHER_PAGE = Page(np.zeros((4, 5, 3), np.uint16))
FILES = {
    "PNG": lambda rgb, _: png(rgb, 2),
    "PNG with alpha": lambda rgb, bits: png(joined(rgb, OPAQUE, bits), 6),
    "PNG with alpha of 16 bits": lambda rgb, _: png(joined(rgb, OPAQUE, 16), 6),
    "TIFF": lambda rgb, _: tiff_file(Page(rgb)),
    "TIFF, the other order of bytes": lambda rgb, _: tiff_file(Page(rgb), order=">"),
    "TIFF, later page": lambda rgb, _: tiff_file(OTHER_PAGE, Page(rgb)),
    "TIFF, big": lambda rgb, _: tiff_file(OTHER_PAGE, Page(rgb), is_big=True),
    "TIFF, planes apart": lambda rgb, _: tiff_file(Page(rgb, are_planes_apart=True)),
    "TIFF, packed": lambda rgb, _: by_opencv(rgb, ".tif", *DEFLATE),
    "TIFF with alpha": lambda rgb, bits: tiff_file(Page(joined(rgb, OPAQUE, bits), ALPHA_IS_NOT)),
    "TIFF with alpha, packed": lambda rgb, b: by_opencv(joined(rgb, OPAQUE, b), ".tif", *DEFLATE),
    "TIFF with multiplied alpha": lambda rgb, bits: tiff_file(
        OTHER_PAGE, Page(joined(rgb, OPAQUE, bits), ALPHA_IS_MULTIPLIED), order=">"
    ),
    "TIFF with a fourth channel": lambda rgb, bits: tiff_file(
        Page(joined(rgb, HALF_CLEAR, bits), NO_ALPHA)
    ),
    "PPM": lambda rgb, _: ppm(rgb),
    "plain PPM": lambda rgb, _: plain_ppm(rgb),
    "JPEG 2000": lambda rgb, _: by_opencv(rgb, ".jp2", *LOSSLESS),
    "JPEG 2000 with alpha": lambda rgb, b: by_opencv(joined(rgb, OPAQUE, b), ".jp2", *LOSSLESS),
}


@pytest.mark.parametrize("bits", [10, 12, 15, 16])
@pytest.mark.parametrize("kind", FILES)
def test_colours_have_one_rule_in_every_format(kind: str, bits: int) -> None:
    found = decode(FILES[kind](deep(PICTURE, bits), bits), ImageConfig())
    assert np.abs(found.rgb.astype(int) - PICTURE).max() <= 1
    assert found.value_range == f"0 to {2**bits - 1}"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("are_planes_apart", [False, True])
def test_turned_pages_of_few_bits_are_upright(orientation: int, are_planes_apart: bool) -> None:
    turned, straight = (
        decode(
            tiff_file(Page(deep(PICTURE, bits), {274: orientation}, are_planes_apart=apart)),
            ImageConfig(),
        )
        for bits, apart in ((12, are_planes_apart), (16, False))
    )
    assert turned.exif_orientation == orientation
    assert np.abs(turned.rgb.astype(int) - straight.rgb).max() <= 1


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF multiplied"])
def test_transparency_of_deep_colours_is_laid_on_white(kind: str, bits: int) -> None:
    numbers = joined(deep(PICTURE, bits), HALF_CLEAR, bits)
    if kind == "TIFF multiplied":
        numbers[:, : WIDTH // 2, :3] = 0
    files = {
        "PNG": lambda: png(numbers, 6),
        "TIFF": lambda: tiff_file(Page(numbers, ALPHA_IS_NOT)),
        "TIFF multiplied": lambda: tiff_file(Page(numbers, ALPHA_IS_MULTIPLIED)),
    }
    found = decode(files[kind](), ImageConfig()).rgb
    expected = np.where(HALF_CLEAR == 0, 255, PICTURE)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("bits", [12, 16])
def test_a_transparent_number_of_a_deep_png_is_laid_on_white(bits: int) -> None:
    rgb = deep(PICTURE, bits)
    colour = png(rgb, 2, extra=struct.pack(">HHH", *rgb[0, 0]))
    grey = png(rgb[..., :1], 0, extra=struct.pack(">H", rgb[0, 0, 0]))
    for data in (colour, grey):
        found = decode(data, ImageConfig()).rgb
        assert (found[0, 0] == 255).all()
        assert np.abs(found[-1, -1, 0].astype(int) - PICTURE[-1, -1, 0]).max() <= 1


def test_range_that_a_tiff_states_counts_for_colours() -> None:
    data = tiff_file(Page(deep(PICTURE, 12), {280: 0, 281: 8190}))
    found = decode(data, ImageConfig())
    assert found.value_range == "0 to 8190 (stated)"
    assert np.abs(found.rgb.astype(int) - PICTURE / 2).max() <= 1


@pytest.mark.parametrize("white", [1000, 4095])
def test_white_of_a_ppm_is_kept_where_it_says_more_than_its_depth(white: int) -> None:
    dark = np.round(PICTURE / 255 * white / 4).astype(np.uint16)
    colour = decode(ppm(dark, white), ImageConfig())
    grey = decode(
        b"P5\n%d %d\n%d\n" % (WIDTH, HEIGHT, white) + dark[..., 0].astype(">u2").tobytes(),
        ImageConfig(),
    )
    for found, channels in ((colour, 3), (grey, 1)):
        assert found.value_range == f"0 to {white} (stated)"
        assert np.abs(found.rgb[..., :channels] - PICTURE[..., :channels] / 4).max() <= 1


@pytest.mark.parametrize(("bits", "rule"), [(12, "0 to 4095 (stated)"), (16, "0 to 4095")])
def test_depth_that_a_jpeg_2000_states_is_white(bits: int, rule: str) -> None:
    data = bytearray(by_opencv(deep(PICTURE, 12), ".jp2", *LOSSLESS))
    depths = slice(data.index(b"\xff\x4f\xff\x51") + 42, None, 3)
    assert data[depths][:3] == b"\x0f\x0f\x0f"  # 16 bits each
    data[depths] = bytes([bits - 1] * 3) + data[depths][3:]
    assert decode(bytes(data), ImageConfig()).value_range == rule


def test_packed_planes_of_few_bits_are_a_code() -> None:
    data = bytearray(by_opencv(deep(PICTURE, 12), ".tif", *DEFLATE))
    assert decode(bytes(data), ImageConfig()).value_range == "0 to 4095"
    entry = struct.pack("<HHI", 284, 3, 1)
    data[data.index(entry) + 8] = 2
    with pytest.raises(ImageError) as caught:
        decode(bytes(data), ImageConfig())
    assert caught.value.code in (ErrorCode.UNDECODABLE, ErrorCode.TRUNCATED)


def test_libraries_write_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    body = b"profile\0\0" + zlib.compress(b"no profile" * 30)
    data = png(deep(PICTURE, 12), 2)
    chunk = struct.pack(">I", len(body)) + b"iCCP" + body
    chunk += struct.pack(">I", zlib.crc32(b"iCCP" + body))
    found = decode(data[:33] + chunk + data[33:], ImageConfig())
    assert np.abs(found.rgb.astype(int) - PICTURE).max() <= 1
    assert not capfd.readouterr().err


def test_a_dark_photograph_stays_dark_where_one_number_is_high() -> None:
    numbers = deep(PICTURE, 12)
    numbers[0, 0, 0] = 65535
    found = decode(png(numbers, 2), ImageConfig())
    assert found.value_range == "0 to 65535"
    assert found.rgb[1:].max() < 20


def test_eight_bits_have_no_range() -> None:
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000", "BMP"):
        assert decode(encoded(Image.fromarray(PICTURE), kind), ImageConfig()).value_range == ""
