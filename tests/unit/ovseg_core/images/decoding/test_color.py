"""Colours of files that declare them are those that a browser shows."""

import base64
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin, TiffTags

from ovseg_core.images.decoding.decode import DecodedImage, decode
from schemas.config import ImageConfig
from tests.helpers import icc_profiles as icc
from tests.helpers.browser import CHROMIUM, FLAGS, needs_chromium

RGB = (200, 100, 50)
SIZE = (24, 16)
P3_POINTS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def _file(kind: str, mode: str, colour: object, profile: bytes = b"", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.new(mode, SIZE, colour)  # type: ignore[arg-type]
    if mode == "RGB" and options.pop("palette", False):
        image = image.convert("P", palette=Image.Palette.ADAPTIVE)
    if profile:
        options["icc_profile"] = profile
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png(*chunks: tuple[bytes, bytes], grey: int = 0, profile: bytes = b"") -> bytes:
    """A PNG with chunks after its header."""
    data = _file("PNG", "L", grey, profile) if grey else _file("PNG", "RGB", RGB, profile)
    extra = b""
    for kind, content in chunks:
        body = kind + content
        extra += struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + extra + data[33:]


def _avif(primaries: int, transfer: int) -> bytes:
    data = _file("AVIF", "RGB", RGB, quality=100)
    start = data.index(b"colrnclx") + 8
    return data[:start] + struct.pack(">HH", primaries, transfer) + data[start + 4 :]


def _bmp(profile: bytes) -> bytes:
    """A BMP of version 5 with an embedded profile, which Pillow neither writes nor reads."""
    pixels = bytes((*RGB[::-1], 0)) * (SIZE[0] * SIZE[1])
    head = struct.pack("<IiiHHIIiiII", 124, *SIZE, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    head += struct.pack("<4I4s48x", 0xFF0000, 0xFF00, 0xFF, 0, b"DEBM")
    head += struct.pack("<4I", 4, 124 + len(pixels), len(profile), 0)
    size = 14 + len(head) + len(pixels) + len(profile)
    return struct.pack("<2sIHHI", b"BM", size, 0, 0, 14 + len(head)) + head + pixels + profile


def _jpeg2000(profile: bytes) -> bytes:
    """A JP2 whose box of colours holds a profile instead of a number."""
    data = _file("JPEG2000", "RGB", RGB)
    outer, inner = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    outer_size, inner_size = (struct.unpack_from(">I", data, at)[0] for at in (outer, inner))
    box = struct.pack(">I4s3B", 11 + len(profile), b"colr", 2, 0, 0) + profile
    changed = data[:outer] + struct.pack(">I", outer_size - inner_size + len(box))
    return changed + data[outer + 4 : inner] + box + data[inner + inner_size :]


def _profile_of_numbers() -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[34675], tags.tagtype[34675] = 4_000_000_000, TiffTags.LONG
    return tags


def _half_profile() -> bytes:
    """A JPEG that names two parts of its profile and has the first."""
    data = _file("JPEG", "RGB", RGB, icc.SWAPPED, quality=100, subsampling=0)
    mark = data.index(b"ICC_PROFILE\0") + 12
    return data[: mark + 1] + b"\2" + data[mark + 2 :]


GAMMA_1 = (b"gAMA", struct.pack(">I", 100_000))
GAMMA_SRGB = (b"gAMA", struct.pack(">I", 45455))
P3 = (b"cHRM", struct.pack(">8I", *P3_POINTS))
NO_SPACE = (b"cHRM", bytes(32))
WHITE_ZERO = (b"cHRM", struct.pack(">8I", 31270, 32900, *(30000,) * 6))
SWAPPED = "converted from Swapped Red and Green"

# File, colour of its pixels as Chromium shows them, note.
SHOWN: dict[str, tuple[bytes, tuple[int, int, int], str]] = {
    "srgb.png": (_file("PNG", "RGB", RGB, icc.SRGB), RGB, "sRGB"),
    "swapped.png": (_file("PNG", "RGB", RGB, icc.SWAPPED), (100, 200, 50), SWAPPED),
    "palette.png": (_file("PNG", "RGB", RGB, icc.SWAPPED, palette=True), (100, 200, 50), SWAPPED),
    "swapped.webp": (
        _file("WEBP", "RGB", RGB, icc.SWAPPED, lossless=True), (100, 200, 50), SWAPPED,
    ),
    "swapped.avif": (_file("AVIF", "RGB", RGB, icc.SWAPPED, quality=100), (100, 200, 50), SWAPPED),
    "swapped.jpeg": (
        _file("JPEG", "RGB", RGB, icc.SWAPPED, quality=100, subsampling=0), (100, 200, 50), SWAPPED,
    ),
    "v5.bmp": (_bmp(icc.SWAPPED), (100, 200, 50), SWAPPED),
    "p3.png": (_file("PNG", "RGB", RGB, icc.DISPLAY_P3), (215, 93, 31),
               "converted from Display P3"),
    "prophoto.png": (_file("PNG", "RGB", RGB, icc.PROPHOTO), (255, 80, 47),
                     "converted from ProPhoto RGB"),
    "grey.png": (_file("PNG", "L", 128, icc.LINEAR_GREY), (188,) * 3,
                 "converted from Linear Gray"),
    "grey.jpeg": (_file("JPEG", "L", 128, icc.LINEAR_GREY), (188,) * 3,
                  "converted from Linear Gray"),
    "grey-alpha.png": (_file("PNG", "LA", (128, 255), icc.LINEAR_GREY), (188,) * 3,
                       "converted from Linear Gray"),
    "grey-of-rgb.png": (_file("PNG", "L", 128, icc.LINEAR), (188,) * 3,
                        "converted from Linear sRGB"),
    "cmyk.jpeg": (_file("JPEG", "CMYK", (100, 100, 100, 0), icc.FOUR_INKS, quality=100),
                  (230, 204, 187), "converted from Four inks"),
    "rgb-of-grey.png": (_file("PNG", "RGB", RGB, icc.LINEAR_GREY), RGB,
                        "not converted: Linear Gray, a profile of GRAY, in an image of RGB"),
    "rgb-of-cmyk.png": (_file("PNG", "RGB", RGB, icc.FOUR_INKS), RGB,
                        "not converted: Four inks, a profile of CMYK, in an image of RGB"),
    "cmyk-of-rgb.jpeg": (
        _file("JPEG", "CMYK", (10, 100, 200, 50), icc.SWAPPED, quality=100), (197, 125, 44),
        "not converted: Swapped Red and Green, a profile of RGB, in an image of CMYK",
    ),
    "broken.png": (_file("PNG", "RGB", RGB, icc.SWAPPED[:200]), RGB,
                   "not converted: a damaged profile of 200 bytes"),
    "half-profile.jpeg": (_half_profile(), RGB, "not converted: a damaged profile"),
    "no-profile.png": (_file("PNG", "RGB", RGB, b"nonsense"), RGB,
                       "not converted: a damaged profile of 8 bytes"),
    "gamma.png": (_png(GAMMA_1), (229, 168, 122), "converted from gAMA 1"),
    "usual-gamma.png": (_png(GAMMA_SRGB), RGB, ""),
    "near-usual-gamma.png": (_png((b"gAMA", struct.pack(">I", 46000))), RGB, ""),
    "gamma-zero.png": (_png((b"gAMA", bytes(4))), RGB, ""),
    "gamma-and-srgb.png": (_png((b"sRGB", b"\0"), GAMMA_1), RGB, ""),
    "gamma-and-points.png": (_png(GAMMA_SRGB, P3), (216, 93, 24), "converted from gAMA 0.45455"),
    "points-alone.png": (_png(P3), RGB, ""),
    "no-points.png": (_png(GAMMA_SRGB, NO_SPACE), RGB,
                      "not converted: gAMA and cHRM that span no colour space"),
    "one-point.png": (_png(GAMMA_SRGB, WHITE_ZERO), RGB,
                      "not converted: gAMA and cHRM that span no colour space"),
    "cicp.png": (_png((b"cICP", bytes((12, 13, 0, 1)))), (215, 93, 31),
                 "converted from cICP 12/13"),
    "cicp-video.png": (_png((b"cICP", bytes((1, 1, 0, 1))), grey=128), (121,) * 3,
                       "converted from cICP 1/1"),
    "cicp-and-profile.png": (_png((b"cICP", bytes((1, 13, 0, 1))), profile=icc.SWAPPED), RGB, ""),
    "nclx.avif": (_avif(12, 13), (215, 93, 31), "converted from nclx 12/13"),
    "nclx-video.avif": (_avif(1, 1), RGB, ""),
    "nclx-linear.avif": (_avif(1, 8), (229, 168, 122), "converted from nclx 1/8"),
    "plain.avif": (_avif(1, 13), RGB, ""),
}  # fmt: skip


def _colour(data: bytes, config: ImageConfig | None = None) -> tuple[np.ndarray, str]:
    found: DecodedImage = decode(data, config or ImageConfig())
    return found.rgb[8, 12].astype(int), found.color_profile


@pytest.mark.parametrize("name", SHOWN)
def test_colours_are_those_that_a_browser_shows(name: str) -> None:
    data, shown, note = SHOWN[name]
    colour, found = _colour(data)
    np.testing.assert_allclose(colour, shown, atol=1)
    assert found == note


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_a_picture_in_another_colour_space_is_the_same_picture(kind: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    swapped = Image.fromarray(picture[..., [1, 0, 2]].copy())
    swapped.save(buffer, kind, icc_profile=icc.SWAPPED, **options)
    found = decode(buffer.getvalue(), ImageConfig()).rgb
    assert np.abs(found.astype(int) - picture).max() <= 1


@needs_chromium
def test_the_table_above_is_what_chromium_shows() -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

    script = """async address => {
        const image = new Image(); image.src = address; await image.decode();
        const context = document.createElement('canvas').getContext('2d');
        context.drawImage(image, 0, 0);
        return Array.from(context.getImageData(12, 8, 1, 1).data).slice(0, 3);
    }"""
    with api.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        for name, (data, shown, _) in SHOWN.items():
            kind = name.rpartition(".")[2]
            address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            np.testing.assert_allclose(page.evaluate(script, address), shown, atol=1, err_msg=name)
        browser.close()


@pytest.mark.parametrize(
    ("data", "colour", "note"),
    [
        (_jpeg2000(icc.SWAPPED), (100, 200, 50), SWAPPED),
        (_file("TIFF", "RGB", RGB, icc.SWAPPED), (100, 200, 50), SWAPPED),
        (_file("TIFF", "RGB", RGB, tiffinfo=_profile_of_numbers()), RGB,
         "not converted: a profile that is no bytes"),
        (_file("TIFF", "CMYK", (100, 100, 100, 0), icc.FOUR_INKS), (230, 204, 187),
         "converted from Four inks"),
        (_file("TIFF", "LAB", (255, 128, 128)), (255, 255, 255), "converted from CIE Lab"),
        (_file("TIFF", "LAB", (128, 188, 128)), (206, 63, 122), "converted from CIE Lab"),
        (_file("TIFF", "LAB", (255, 128, 128), icc.SWAPPED), (255, 255, 255),
         "converted from CIE Lab"),
        (_png((b"cICP", bytes((9, 16, 0, 1)))), RGB, "not converted: cICP of HDR (PQ)"),
        (_png((b"cICP", bytes((99, 13, 0, 1)))), RGB, "not converted: cICP 99/13 is not known"),
        (_png((b"cICP", b"")), RGB, ""),
        (_avif(999, 13), RGB, "not converted: nclx 255/13 is not known"),
    ],
)  # fmt: skip
def test_colours_that_chromium_cannot_be_asked_for(
    data: bytes, colour: tuple[int, int, int], note: str
) -> None:
    found, found_note = _colour(data)
    np.testing.assert_allclose(found, colour, atol=1)
    assert found_note == note


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (*RGB, 128)), ("LA", (200, 128))])
def test_alpha_is_kept_and_laid_on_white_after_the_conversion(mode: str, colour: tuple) -> None:
    profile = icc.SWAPPED if mode == "RGBA" else icc.LINEAR_GREY
    opaque, _ = _colour(_file("PNG", mode, (*colour[:-1], 255), profile))
    half, note = _colour(_file("PNG", mode, colour, profile))
    assert note.startswith("converted")
    np.testing.assert_allclose(half, (opaque * 128 + 255 * 127) / 255, atol=1)


def test_a_transparent_colour_is_found_before_the_conversion() -> None:
    key, _ = _colour(_file("PNG", "RGB", RGB, icc.SWAPPED, transparency=RGB))
    other, _ = _colour(_file("PNG", "RGB", RGB, icc.SWAPPED, transparency=(1, 2, 3)))
    assert key.tolist() == [255, 255, 255]
    np.testing.assert_allclose(other, (100, 200, 50), atol=1)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (_file("PNG", "RGB", RGB, icc.SWAPPED), "ignored: Swapped Red and Green"),
        (_file("PNG", "RGB", RGB, icc.SRGB), "sRGB"),
        (_png(GAMMA_1), "ignored: gAMA 1"),
    ],
)
def test_profiles_can_be_ignored(data: bytes, note: str) -> None:
    colour, found = _colour(data, ImageConfig(color_profiles="ignore"))
    assert (colour.tolist(), found) == (list(RGB), note)


def test_a_jpeg_that_the_decoder_reduces_is_converted_too() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 320), RGB).save(buffer, "JPEG", icc_profile=icc.SWAPPED, quality=100)
    found = decode(buffer.getvalue(), ImageConfig(), side_px=80)
    assert found.rgb.shape == (80, 160, 3)
    np.testing.assert_allclose(found.rgb[40, 80], (100, 200, 50), atol=2)


def test_threads_share_transforms() -> None:
    """Colours of neighbouring threads never mix, nor does a thread see another's profile."""
    files = [
        (_file("PNG", mode, colour, profile), None)
        for mode, profile in (("RGB", icc.SWAPPED), ("RGB", icc.DISPLAY_P3), ("L", icc.LINEAR_GREY))
        for colour in (((9, 200, 90), (250, 3, 7), (1, 2, 250)) if mode == "RGB" else (9, 99, 199))
    ]
    alone = [decode(data, ImageConfig()).rgb for data, _ in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: decode(files[i % 9][0], ImageConfig()).rgb, range(450)))
    for index, rgb in enumerate(together):
        np.testing.assert_array_equal(rgb, alone[index % 9])


@settings(max_examples=150)
@given(
    st.sampled_from(["cHRM", "profile", "inks", "cICP"]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_damaged_declarations_never_cost_the_image(
    kind: str, changes: list[tuple[int, int]]
) -> None:
    whole = {"cHRM": P3[1], "profile": icc.SWAPPED, "inks": icc.FOUR_INKS, "cICP": bytes(4)}[kind]
    damaged = bytearray(whole)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    if kind == "inks":
        data = _file("JPEG", "CMYK", (10, 100, 200, 50), bytes(damaged))
    elif kind == "profile":
        data = _file("PNG", "RGB", RGB, bytes(damaged))
    else:
        data = _png(GAMMA_SRGB, (kind.encode(), bytes(damaged)))
    assert _colour(data)[1].partition(" ")[0] in ("", "sRGB", "converted", "not")


def test_a_name_from_a_profile_is_one_printable_line() -> None:
    name = "two\nlines\x1b[31m" + "x" * 200
    profile = icc.rgb_profile(name, (0.3127, 0.329, 0.3, 0.6, 0.64, 0.33, 0.15, 0.06), 1.0)
    _, note = _colour(_file("PNG", "RGB", RGB, profile))
    assert note.isprintable()
    assert note.startswith("converted from two lines [31mxxx")
    assert len(note) < 100
