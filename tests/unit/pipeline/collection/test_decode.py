"""What becomes of every awkward kind of image file."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.collection.decode import decode
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError
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

# pytest puts its own filters above that of `collection.decode`, which has a test below.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")
CONFIG = ImageConfig()
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
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
        "import sys; from pipeline.collection.decode import decode\n"
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
