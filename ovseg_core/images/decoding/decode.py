"""Decode an image file to RGB pixels in the frame that a person sees.

The content decides on the format, never the file's name, see `formats`. Pillow lets other threads
run while it decodes.
"""

import ctypes
import io
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

from ovseg_core.images.decoding.color import to_srgb
from ovseg_core.images.decoding.color_profile import declared_colors
from ovseg_core.images.decoding.deep_numbers import with_8_bits
from ovseg_core.images.decoding.exif import (
    is_orientation,
    orientation_of,
    swaps_sides,
    upright_image,
)
from ovseg_core.images.decoding.formats import KNOWN_FORMATS, accepts, missing_decoder_of
from ovseg_core.images.decoding.png_chunks import chunks_before_pixels, without_damage
from ovseg_core.images.decoding.tiff_pages import pages_of, with_first_page
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError

PILLOW_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip
"""All that Pillow's plugins raise on damaged files."""
_OF_DAMAGE = (ErrorCode.TRUNCATED, ErrorCode.UNDECODABLE)
_BACKDROP = (255, 255, 255)
_TURNED_BY_EXIF = ("JPEG", "PNG", "AVIF")
"""Formats whose EXIF orientation browsers apply; Pillow writes AVIF's own turns there. HEIF's and
JPEG XL's are applied by their decoders."""
_TIFF_COMPRESSIONS = {
    34661: "JBIG", 34712: "JPEG 2000", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR",
    50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip

_CONVERT_NUMBERS = "convert it, for example to float32 with one channel, or to RGB of 8 bits"

# Pillow warns about odd metadata of files that it decodes well: noise, over a whole collection.
warnings.filterwarnings("ignore", module=r"PIL\.")
# The job's own limit counts, `image.max_pixels`; Pillow's is one for the whole process.
Image.MAX_IMAGE_PIXELS = None
# libtiff writes its errors to standard error, without the name of the file; Pillow raises them too.
for _library in (Path(PIL.__file__).parents[1] / "pillow.libs").glob("libtiff*"):
    with suppress(OSError, AttributeError):
        ctypes.CDLL(str(_library)).TIFFSetErrorHandler(None)


@dataclass(frozen=True)
class DecodedImage:
    """The pixels of one image, in the frame that a person sees.

    Attributes:
        rgb: uint8 (h, w, 3), upright; reduced where the decoder could save work. In memory it lies
            plane by plane, as networks take it.
        height: pixels of the full image, upright.
        width: pixels of the full image, upright.
        exif_orientation: 1 to 8, the turn that was applied; 1: none.
        color_profile: what was done to the colours, see `color.to_srgb`; empty: the file says
            nothing about them.
        num_frames: frames or pages in the file.
        value_range: how numbers of more than 8 bits became 8 bits, see `value_range`; empty: they
            have 8.
    """

    rgb: NDArray[np.uint8]
    height: int
    width: int
    exif_orientation: int
    color_profile: str = ""
    num_frames: int = 1
    value_range: str = ""


@dataclass(frozen=True)
class _Opened:
    """A file whose header is read.

    Attributes:
        image: at the frame or page that is decoded.
        name: its format.
        data: the file; of a TIFF with that page first.
        num_frames: frames or pages.
    """

    image: ImageFile.ImageFile
    name: str
    data: bytes
    num_frames: int


def decode(data: bytes, config: ImageConfig, side_px: int = 0) -> DecodedImage:
    """Decode one image file.

    The first frame of an animation is taken; of the pages of a TIFF the largest one, the first of
    equal ones, that is not marked as a reduced copy. Transparency is laid on white. The frame is
    that which Chromium shows: EXIF's orientation counts in JPEG and PNG, not in WebP, and XMP's
    nowhere. Numbers of more than 8 bits: see `value_range`. Colours become sRGB, see
    `color.to_srgb`.

    Args:
        data: content of the file.
        config: limits.
        side_px: pixels on the shorter side that are enough; a JPEG may come at 1/2, 1/4 or 1/8,
            both sides no shorter than this; 0: full size.

    Raises:
        ImageError: `empty_file`, `not_an_image`, `too_large`, `truncated`, `undecodable`,
            `out_of_memory`.
    """
    if not data:
        raise ImageError(ErrorCode.EMPTY_FILE, "the file has no bytes")
    try:
        return _decode(data, config, side_px)
    except ImageError as error:
        # What describes a PNG may be damaged; without that it is the file that browsers show.
        if error.code not in _OF_DAMAGE or not accepts("PNG", data):
            raise
        plain = without_damage(data)
        if plain != data:
            with suppress(ImageError):
                return _decode(plain, config, side_px)
        raise


def from_pillow(image: Image.Image, config: ImageConfig) -> DecodedImage:
    """Return the pixels of an image that Pillow has opened, by the rules of `decode`.

    EXIF's orientation counts as long as Pillow has it, profiles too; transparency is laid on white.

    Args:
        image: with at most 8 bits per channel, which `decode` reduces by what the file says.
        config: limits.

    Raises:
        ImageError: `too_large`, `truncated` or `undecodable`.
    """
    _check_size(image, config)
    try:
        image.load()
    except PILLOW_DAMAGE as error:
        raise _damaged(b"", image.format or "", error) from error
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ImageError(
            ErrorCode.UNDECODABLE,
            f"expected a Pillow image of 8 bits per channel, got the mode {image.mode}; give the "
            "file's path, so that its numbers are scaled as in a job",
        )
    is_turned = image.format is None or image.format in _TURNED_BY_EXIF
    exif = image.info.get("exif")
    orientation = orientation_of(exif) if is_turned and isinstance(exif, bytes) else 1
    declared = declared_colors(b"", "", image.info)
    rgb, color_profile = to_srgb(image, declared, config.color_profiles == "convert")
    pixels = _planes(upright_image(_opaque(rgb, is_bitmap=False), orientation))
    height, width = pixels.shape[:2]
    return DecodedImage(pixels, height, width, orientation, color_profile)


def check_image_header(data: bytes, config: ImageConfig) -> None:
    """Check that a file begins as an image that can be decoded and is not too large.

    Raises:
        ImageError: as `decode`, as far as the header tells.
    """
    try:
        image = _open(data).image
    except ImageError as error:
        if error.code not in _OF_DAMAGE or not accepts("PNG", data):
            raise
        image = _open(without_damage(data)).image
    _check_size(image, config)


def _check_size(image: Image.Image, config: ImageConfig) -> None:
    width, height = image.size
    if width * height > config.max_pixels:
        raise ImageError(
            ErrorCode.TOO_LARGE,
            f"{width} x {height} pixels, more than image.max_pixels = {config.max_pixels}",
        )


def _decode(data: bytes, config: ImageConfig, side_px: int) -> DecodedImage:
    opened = _open(data)
    image, name, data = opened.image, opened.name, opened.data
    _check_size(image, config)
    width, height = image.size
    try:
        # Of a TIFF, EXIF is gone when Pillow has turned the pixels, which it does by itself.
        orientation = _tiff_orientation(image) if isinstance(image, TiffImageFile) else 1
        if side_px:
            image.draft("RGB", (side_px, side_px))
        image.load()
        if name in _TURNED_BY_EXIF:
            orientation = orientation_of(_exif_of(image, name, data))
        levels, value_range = with_8_bits(image, name, data)
        is_wanted = config.color_profiles == "convert"
        rgb, color_profile = to_srgb(levels, declared_colors(data, name, image.info), is_wanted)
        rgb = _opaque(rgb, is_bitmap=name in ("BMP", "DIB"))
        if name in _TURNED_BY_EXIF:
            rgb = upright_image(rgb, orientation)
        pixels = _planes(rgb)
    except MemoryError as error:
        raise ImageError(ErrorCode.OUT_OF_MEMORY, f"{width} x {height} pixels in {name}") from error
    except PILLOW_DAMAGE as error:
        raise _damaged(data, name, error, image.info.get("compression", "")) from error
    if name in _TURNED_BY_EXIF and swaps_sides(orientation):
        width, height = height, width
    return DecodedImage(
        pixels, height, width, orientation, color_profile, opened.num_frames, value_range
    )


def _open(data: bytes) -> _Opened:
    """Read the header; Image.open would judge the size by a limit that is global to the process."""
    for name in KNOWN_FORMATS:
        if not accepts(name, data):
            continue
        try:
            if name == "TIFF":
                return _open_tiff(data)
            image = Image.OPEN[name][0](io.BytesIO(data), "")
        except PILLOW_DAMAGE as error:
            raise _damaged(data, name, error) from error
        return _Opened(image, name, data, _choose_frame(image))
    what = missing_decoder_of(data) or f"the content begins with {data[:8]!r}"
    raise ImageError(ErrorCode.NOT_AN_IMAGE, f"{what}; known formats: {', '.join(KNOWN_FORMATS)}")


def _open_tiff(data: bytes) -> _Opened:
    """Open the best page whose header can be read."""
    pages = pages_of(data)
    error: Exception | None = None
    for place in pages.places:
        paged = with_first_page(data, place)
        try:
            return _Opened(TiffImageFile(io.BytesIO(paged)), "TIFF", paged, max(1, pages.count))
        except PILLOW_DAMAGE as caught:
            error = error or caught
    if error:
        raise error
    return _Opened(TiffImageFile(io.BytesIO(data)), "TIFF", data, 1)


def _choose_frame(image: ImageFile.ImageFile) -> int:
    """Go to the frame of an animation that is decoded; return how many the file has."""
    try:
        num_frames = int(getattr(image, "n_frames", 1))
        if getattr(image, "default_image", False) and num_frames > 1:
            image.seek(1)  # the first is for programs that know no animated PNG
            num_frames -= 1
    except PILLOW_DAMAGE:  # what follows the first frame is damaged
        with suppress(*PILLOW_DAMAGE):
            image.seek(0)
        return 1
    return num_frames


_BIG_ENDIAN_BIGTIFF = b"MM\x00\x2b"


def _damaged(data: bytes, name: str, error: Exception, compression: str = "") -> ImageError:
    reason = str(error) or type(error).__name__
    if name == "TIFF" and reason.isdigit():  # Pillow says no more of a compression than its number
        compression = _TIFF_COMPRESSIONS.get(int(reason), "")
        reason = f"compression {reason} is not known"
    elif name == "TIFF" and reason == "unknown pixel mode":
        reason = "a kind or number of channels that Pillow does not read: " + _CONVERT_NUMBERS
    if data.startswith(_BIG_ENDIAN_BIGTIFF):  # Pillow takes it for a TIFF without tags
        reason = "BigTIFF in big-endian byte order is not read; convert it, for example to PNG"
    elif compression == "webp":  # libtiff says why on stderr only
        reason += "; Pillow's libtiff is usually built without WebP: convert it, for example to PNG"
    cut = "truncated" in reason.lower() or _ends_early(data, name)
    code = ErrorCode.TRUNCATED if cut else ErrorCode.UNDECODABLE
    packed = f" (packed as {compression})" if name == "TIFF" and compression else ""
    return ImageError(code, f"{name} of {len(data)} bytes: {reason}{packed}")


def _ends_early(data: bytes, name: str) -> bool:
    if name == "WEBP":
        return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if name == "GIF":
        return not data.endswith(b";")
    ends = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
    return name in ends and ends[name] not in data[-64:]


def _exif_of(image: ImageFile.ImageFile, name: str, data: bytes) -> bytes:
    """Return an image's EXIF; of a PNG the first before its pixels, while Pillow takes the last."""
    if name != "PNG":
        return image.info.get("exif", b"")
    return next((b"Exif\0\0" + body for _, body in chunks_before_pixels(data, (b"eXIf",))), b"")


def _tiff_orientation(image: TiffImageFile) -> int:
    try:
        value = image.getexif().get(Tag.Orientation, 1)
    except PILLOW_DAMAGE:  # damaged metadata says nothing about the pixels
        return 1
    return int(value) if is_orientation(value) else 1


def _planes(rgb: Image.Image) -> NDArray[np.uint8]:
    """Return pixels (h, w, 3) that lie plane by plane; a third of the time of NumPy's copies."""
    planes = np.empty((3, rgb.height, rgb.width), np.uint8)
    cv2.split(np.asarray(rgb), list(planes))
    return planes.transpose(1, 2, 0)


def _opaque(image: Image.Image, *, is_bitmap: bool) -> Image.Image:
    """Lay an image on white; a bitmap all of whose pixels are transparent means no alpha."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_bitmap and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, _BACKDROP)
        rgb.paste(layer, mask=layer.getchannel("A"))
        return rgb
    return image.convert("RGB")
