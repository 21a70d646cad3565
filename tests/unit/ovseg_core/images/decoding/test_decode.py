"""What becomes of every awkward kind of image file."""

import base64
import io
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ovseg_core.images.decoding.decode import decode
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError
from tests.helpers.browser import CHROMIUM, FLAGS, needs_chromium
from tests.helpers.image_files import (
    HEIGHT,
    WIDTH,
    encoded,
    picture,
    png_bomb,
    rgba,
    samples,
    with_orientation,
)

# pytest puts its own filters above that of `decode`, which has a test below.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")
CONFIG = ImageConfig()
END_OF_HEADER, BEFORE_END = 33, -12
"""Places in a PNG: after its first chunk, before its last."""
DAMAGED_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 30
SAMPLES = samples()
GREY = ("grey", "float", "int32", "bilevel")
CLEAR = ("clear", "rgba", "alpha", "key")


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if not sample.error])
def test_sound_files_decode_upright(name: str) -> None:
    sample = SAMPLES[name]
    found = decode(sample.data, CONFIG)
    assert (found.height, found.width) == sample.size_hw
    assert found.rgb.shape == (*sample.size_hw, 3)
    assert found.rgb.dtype == np.uint8
    assert found.rgb.flags.writeable
    assert found.exif_orientation == sample.orientation
    expected = picture(*sample.size_hw).astype(int)
    if not any(word in name for word in (*GREY, *CLEAR, "one-pixel", "tall")):
        # Palettes, CMYK and lossy codecs change colours a little, a wrong turn by a hundred.
        assert np.abs(found.rgb - expected).mean() < 14


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.error])
def test_damaged_files_get_their_code(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(SAMPLES[name].data, CONFIG)
    assert caught.value.code == SAMPLES[name].error


@pytest.mark.parametrize("name", ["grey.png", "grey16.png", "grey16.tif", "float.tif", "int32.tif"])
def test_grey_of_any_depth_keeps_its_brightness(name: str) -> None:
    source = picture()[..., 0]
    if name == "grey.png":
        source = np.asarray(Image.fromarray(picture()).convert("L"))
    found = decode(SAMPLES[name].data, CONFIG).rgb
    assert np.abs(found - source[..., None].astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["palette-clear.png", "rgba.png", "grey-alpha.png"])
def test_transparency_is_laid_on_white(name: str) -> None:
    found = decode(SAMPLES[name].data, CONFIG).rgb
    assert (found[:, : WIDTH // 2] == 255).all()
    assert (found[:, WIDTH // 2 :] < 255).any()


def test_a_transparent_colour_of_rgb_is_laid_on_white() -> None:
    found = decode(SAMPLES["colour-key.png"].data, CONFIG).rgb
    assert (found[0, 0] == 255).all()
    assert (found[-1, -1] == picture()[-1, -1]).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    image = rgba()
    image.putalpha(128)
    found = decode(encoded(image), CONFIG).rgb
    assert np.abs(found.astype(int) - (picture() * 0.502 + 255 * 0.498)).max() <= 1.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_in_every_format(kind: str, orientation: int) -> None:
    found = decode(with_orientation(orientation, kind), CONFIG)
    assert (found.height, found.width, found.exif_orientation) == (HEIGHT, WIDTH, orientation)
    assert np.abs(found.rgb - picture().astype(int)).mean() < 8


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("side_px", [1, 90, 100, 101, 200, 400, 5000])
def test_draft_keeps_both_sides_long_enough(orientation: int, side_px: int) -> None:
    data = with_orientation(orientation, size_hw=(401, 803))
    found = decode(data, CONFIG, side_px)
    assert (found.height, found.width) == (401, 803)
    height, width = found.rgb.shape[:2]
    assert min(height, width) >= min(side_px, 401)
    assert abs(width / height - 803 / 401) < 0.05
    small = np.asarray(Image.fromarray(picture(401, 803)).resize((width, height)))
    assert np.abs(found.rgb - small.astype(int)).mean() < 8
    if side_px <= 200:
        assert found.rgb.size < 401 * 803 * 3


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_unknown_orientation_is_no_turn(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    found = decode(encoded(picture(), "JPEG", exif=exif.tobytes()), CONFIG)
    assert (found.height, found.width, found.exif_orientation) == (HEIGHT, WIDTH, 1)


def test_damaged_exif_does_not_lose_the_image() -> None:
    data = encoded(picture(), "JPEG", exif=DAMAGED_EXIF)
    assert decode(data, CONFIG).exif_orientation == 1


def test_pixel_limit_is_exact_and_checked_before_decoding() -> None:
    data = encoded(picture())
    assert decode(data, ImageConfig(max_pixels=HEIGHT * WIDTH)).height == HEIGHT
    with pytest.raises(ImageError) as caught:
        decode(data, ImageConfig(max_pixels=HEIGHT * WIDTH - 1))
    assert caught.value.code == ErrorCode.TOO_LARGE
    start = time.perf_counter()
    with pytest.raises(ImageError):
        decode(png_bomb(60_000), CONFIG)
    assert time.perf_counter() - start < 1


def test_a_raised_limit_is_not_second_guessed_by_pillow() -> None:
    wide = encoded(Image.new("L", (20_000, 9_500)), "JPEG")  # 190 megapixels: Pillow's own error
    found = decode(wide, ImageConfig(max_pixels=200_000_000), side_px=1000)
    assert (found.height, found.width) == (9_500, 20_000)
    assert found.rgb.shape == (1_188, 2_500, 3)


def code_of(data: bytes) -> ErrorCode | None:
    """Return the code with which a file fails; None where it does not."""
    try:
        decode(data, ImageConfig(max_pixels=1_000_000))
    except ImageError as error:
        return error.code
    return None


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "bmp", "avif"])
def test_every_cut_of_a_file_gets_a_code(kind: str) -> None:
    data = SAMPLES[f"plain.{kind}"].data
    found = {code_of(data[:size]) for size in range(1, len(data), max(1, len(data) // 40))}
    damaged = {ErrorCode.TRUNCATED, ErrorCode.UNDECODABLE, ErrorCode.NOT_AN_IMAGE}
    assert found & damaged
    assert found <= damaged | {None}


@pytest.mark.parametrize(
    "name", ["plain.jpg", "palette.png", "animated.webp", "animated.gif", "grey16.tif", "plain.bmp"]
)
def test_flipped_bytes_raise_nothing_but_image_errors(name: str) -> None:
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(80):
        data = bytearray(SAMPLES[name].data)
        for place in rng.integers(0, len(data), 4):
            data[place] = int(rng.integers(0, 256))
        found.add(code_of(bytes(data)))
    assert len(found) > 1


def test_no_warning_leaks_even_where_warnings_are_errors() -> None:
    code = (
        "import sys; from ovseg_core.images.decoding.decode import decode\n"
        "from schemas.config import ImageConfig\n"
        "print(decode(sys.stdin.buffer.read(), ImageConfig()).width)"
    )
    flags = ["-W", "error::UserWarning", "-W", "error::RuntimeWarning"]
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        input=encoded(picture(), "JPEG", exif=DAMAGED_EXIF),
        capture_output=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == (str(WIDTH).encode(), b"")


def test_other_threads_run_while_an_image_is_decoded() -> None:
    data = encoded(picture(2400, 3600), "JPEG", quality=95)
    stop = threading.Event()
    longest = 0.0

    def spin() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not stop.is_set():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    thread = threading.Thread(target=spin)
    thread.start()
    start = time.perf_counter()
    for _ in range(3):
        decode(data, CONFIG)
    took = time.perf_counter() - start
    stop.set()
    thread.join()
    assert longest < took / 2


def exif(orientation: int, kind: int = 3) -> bytes:
    """Return an EXIF block with one tag, the orientation, as SHORT (3) or LONG (4)."""
    value = struct.pack("<HH", orientation, 0) if kind == 3 else struct.pack("<I", orientation)
    entry = struct.pack("<HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)


def png_with(
    kind: bytes,
    body: bytes,
    checksum: int | None = None,
    place: int = END_OF_HEADER,
    data: bytes = b"",
) -> bytes:
    """Return a PNG, by default a plain one, with one more chunk at a place."""
    data = data or encoded(picture())
    crc = zlib.crc32(kind + body) if checksum is None else checksum
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)
    return data[:place] + chunk + data[place:]


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
FRAMES = {
    f"{name}.{kind.lower()}": encoded(picture(), kind, **options)
    for kind in ("JPEG", "PNG", "WEBP", "AVIF")
    for name, options in {
        "exif 3": {"exif": exif(3)},
        "exif 6": {"exif": exif(6)},
        "exif 6 as LONG": {"exif": exif(6, kind=4)},
        "xmp 6": {"xmp": XMP},
        "exif 8 and xmp 6": {"exif": exif(8), "xmp": XMP},
    }.items()
    if not (kind == "PNG" and "xmp" in options)  # Pillow writes no XMP there
}
TIFF_OF_EXIF = len(b"Exif\0\0")
for _title, _kind, _bodies, _place in (
    ("exif 6 before the pixels", b"eXIf", [exif(6)], END_OF_HEADER),
    ("exif 6 behind the pixels", b"eXIf", [exif(6)], BEFORE_END),
    ("exif 6, then 3", b"eXIf", [exif(3), exif(6)], END_OF_HEADER),
):
    _file = encoded(picture())
    for _body in _bodies:
        _file = png_with(_kind, _body[TIFF_OF_EXIF:], place=_place, data=_file)
    FRAMES[f"{_title}.png"] = _file
FRAMES["exif 6 with a wrong checksum.png"] = png_with(b"eXIf", exif(6)[TIFF_OF_EXIF:], checksum=7)
TURNED = {
    "exif 3": 3,
    "exif 6": 6,
    "exif 8 and xmp 6": 8,
    "exif 6 before the pixels": 6,
    "exif 6, then 3": 6,
}
"""Orientation of the files whose frame a browser turns; of WebP none."""


@pytest.mark.parametrize("name", FRAMES)
def test_frame_is_that_of_the_exif_orientation_where_browsers_read_it(name: str) -> None:
    title, _, kind = name.rpartition(".")
    found = decode(FRAMES[name], CONFIG)
    expected = TURNED.get(title, 1)
    if kind == "webp":
        expected = 1
    elif kind == "avif" and title == "exif 6 as LONG":
        expected = 6  # the file has a turn of its own, which Pillow wrote for it
    assert found.exif_orientation == expected
    assert found.rgb.shape[:2] == (found.height, found.width)


@needs_chromium
def test_frames_are_those_that_chromium_shows() -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    script = """async address => {
        const image = new Image(); image.src = address; await image.decode();
        const canvas = document.createElement('canvas');
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.height, canvas.width, Array.from(data)];
    }"""
    with api.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        for name, data in (
            FRAMES | {f"{name}.png": data for name, data in DAMAGED.items()}
        ).items():
            kind = name.rpartition(".")[2]
            address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            height, width, pixels = page.evaluate(script, address)
            ours = decode(data, CONFIG).rgb.astype(int)
            shown = np.array(pixels).reshape(height, width, 4)[..., :3]
            assert ours.shape == shown.shape, name
            assert np.abs(ours - shown).mean() < 6, name
        browser.close()


def test_the_largest_page_of_a_tiff_is_taken_and_no_thumbnail(caplog) -> None:
    small, other = (Image.fromarray(picture(*size)) for size in ((6, 10), (HEIGHT, WIDTH)))
    large = Image.fromarray(255 - picture())
    buffer = io.BytesIO()
    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[254] = 1
    small.save(buffer, "TIFF", save_all=True, append_images=[large, other], tiffinfo=reduced)
    found = decode(buffer.getvalue(), CONFIG)
    assert (found.num_frames, found.height, found.width) == (3, HEIGHT, WIDTH)
    assert np.abs(found.rgb.astype(int) - (255 - picture())).max() == 0


def test_frames_of_animations_are_counted() -> None:
    frames = [Image.fromarray(np.roll(picture(), step, 1)) for step in (0, 5, 9)]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        found = decode(data, CONFIG)
        assert found.num_frames == 3
        assert np.abs(found.rgb.astype(int) - picture()).mean() < 20


def test_default_image_that_an_animation_never_shows_is_not_taken() -> None:
    default, frame = Image.fromarray(255 - picture()), Image.fromarray(picture())
    data = encoded(default, save_all=True, default_image=True, append_images=[frame, frame])
    np.testing.assert_array_equal(decode(data, CONFIG).rgb, picture())


@pytest.mark.parametrize(
    "data",
    [
        png_with(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_500_000))),
        png_with(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(1_500_000))),
        png_with(b"iCCP", b"profile\0\0" + zlib.compress(bytes(1_500_000))),
        png_with(b"tEXt", b"Comment\0text", checksum=7),
        png_with(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_500_000)), place=BEFORE_END),
        png_with(b"tEXt", b"Comment\0text", checksum=7, place=BEFORE_END),
    ],
    ids=["zTXt", "iTXt", "iCCP", "bad checksum", "zTXt at the end", "bad checksum at the end"],
)
def test_long_or_damaged_texts_of_a_png_do_not_lose_it(data: bytes) -> None:
    np.testing.assert_array_equal(decode(data, CONFIG).rgb, picture())


DAMAGED = {
    **{
        f"{kind} with a wrong checksum": png_with(kind.encode(), body, checksum=7)
        for kind, body in {
            "gAMA": struct.pack(">I", 100_000),
            "pHYs": bytes(9),
            "tRNS": bytes(6),
            "iCCP": b"x\0\0" + zlib.compress(b"no profile"),
            "cICP": bytes([12, 13, 0, 1]),
            "acTL": struct.pack(">II", 1, 0),
            "prVt": b"of nobody",
        }.items()
    },
    **{
        f"short {kind}": png_with(kind.encode(), b"x")
        for kind in ("gAMA", "cHRM", "pHYs", "acTL", "iCCP")
    },
    "empty sRGB": png_with(b"sRGB", b""),
    "empty tRNS": png_with(b"tRNS", b""),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_describes_a_png_and_is_damaged_does_not_lose_it(name: str) -> None:
    np.testing.assert_array_equal(decode(DAMAGED[name], CONFIG).rgb, picture())


def test_pixels_of_a_png_that_are_damaged_are_not_passed_over() -> None:
    data = encoded(picture())
    place = data.index(b"IDAT") + 40
    with pytest.raises(ImageError):
        decode(data[:place] + bytes(30) + data[place + 30 :], CONFIG)


def test_the_job_sets_the_limit_of_pixels_not_pillow() -> None:
    data = encoded(Image.fromarray(picture()).convert("1"), "TIFF")
    for tag, before, after in ((256, WIDTH, 14_000), (257, HEIGHT, 13_000)):
        entry = struct.pack("<HHII", tag, 3, 1, before)
        assert entry in data or struct.pack("<HHII", tag, 4, 1, before) in data
        data = data.replace(entry, struct.pack("<HHII", tag, 3, 1, after))
        data = data.replace(
            struct.pack("<HHII", tag, 4, 1, before), struct.pack("<HHII", tag, 4, 1, after)
        )
    with pytest.raises(ImageError, match="too_large: 14000 x 13000"):
        decode(data, CONFIG)
    with pytest.raises(ImageError, match="truncated"):  # the pixels are missing, not the leave
        decode(data, CONFIG.model_copy(update={"max_pixels": 200_000_000}))


def bitmap_with_alpha(alpha: np.ndarray) -> bytes:
    """Return a BMP of 32 bits whose header has a mask for alpha."""
    pixels = np.dstack([picture()[..., ::-1], alpha])[::-1].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += masks + bytes(108 - len(header) - len(masks))
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels


def test_bitmap_all_of_whose_pixels_are_transparent_is_shown() -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    np.testing.assert_array_equal(decode(bitmap_with_alpha(alpha), CONFIG).rgb, picture())
    alpha[0, 0] = 255
    found = decode(bitmap_with_alpha(alpha), CONFIG).rgb
    np.testing.assert_array_equal(found[0, 0], picture()[0, 0])
    assert (found[-1, -1] == 255).all()


def test_compression_of_a_tiff_that_is_not_decoded_is_named(capfd) -> None:
    data = encoded(picture(), "TIFF")
    entry = struct.pack("<HHII", 259, 3, 1, 1)
    assert entry in data
    for number, name in ((34712, "JPEG 2000"), (50001, "webp")):
        changed = data.replace(entry, struct.pack("<HHII", 259, 3, 1, number))
        with pytest.raises(ImageError, match=name):
            decode(changed, CONFIG)
    assert not capfd.readouterr().err


def test_big_endian_bigtiff_is_refused_by_its_name():
    header = b"MM" + struct.pack(">HHHQ", 43, 8, 0, 16)
    tags = [(256, 4, 6), (257, 4, 4), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 16, 184)]
    tags += [(277, 3, 1), (279, 16, 24)]
    entries = b"".join(
        struct.pack(">HHQ", tag, kind, 1)
        + struct.pack({3: ">H", 4: ">I", 16: ">Q"}[kind], value).ljust(8, b"\0")
        for tag, kind, value in tags
    )
    data = header + struct.pack(">Q", len(tags)) + entries + bytes(8) + bytes(24)
    with pytest.raises(ImageError, match="BigTIFF in big-endian byte order is not read") as caught:
        decode(data, CONFIG)
    assert caught.value.code is ErrorCode.UNDECODABLE


def test_numbers_of_a_tiff_that_are_not_read_say_what_to_do() -> None:
    data = encoded(Image.fromarray(np.zeros((4, 6), np.float32)), "TIFF")
    bits = struct.pack("<HHIHH", 258, 3, 1, 32, 0)
    assert bits in data
    with pytest.raises(ImageError, match=r"undecodable.*convert it, for example to float32"):
        decode(data.replace(bits, struct.pack("<HHIHH", 258, 3, 1, 64, 0)), CONFIG)


def test_tiff_packed_as_webp_says_what_to_do():
    packed = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(packed, "WEBP", lossless=True)
    strip = packed.getvalue()
    tags = [(256, 4, 6), (257, 4, 4), (258, 3, 8), (259, 3, 50001), (262, 3, 2), (273, 4, 122)]
    tags += [(277, 3, 3), (278, 4, 4), (279, 4, len(strip))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    data = b"II" + struct.pack("<HIH", 42, 8, len(tags)) + entries + bytes(4) + strip
    with pytest.raises(ImageError, match="packed as webp") as caught:
        decode(data, CONFIG)
    assert caught.value.code is ErrorCode.UNDECODABLE
    assert "convert it" in str(caught.value)
