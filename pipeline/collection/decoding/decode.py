"""Decode an image file to RGB pixels in the frame that a person sees.

The content decides on the format, never the file's name, see `formats`. Pillow lets other threads
run while it decodes.
"""

import ctypes
import io
import logging
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.collection.decoding.color import to_srgb
from pipeline.collection.decoding.color_profile import declared_colors
from pipeline.collection.decoding.exif import (
    is_orientation,
    orientation_of,
    swaps_sides,
    upright_image,
)
from pipeline.collection.decoding.formats import KNOWN_FORMATS, accepts, missing_decoder_of
from pipeline.collection.decoding.value_range import DeclaredRange, to_8_bits
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError

logger = logging.getLogger(__name__)

# All that Pillow's plugins raise on damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip
_OF_DAMAGE = (ErrorCode.TRUNCATED, ErrorCode.UNDECODABLE)
_BACKDROP = (255, 255, 255)
_TURNED_BY_EXIF = ("JPEG", "PNG", "AVIF")
"""Formats whose EXIF orientation browsers apply; Pillow writes AVIF's own turns there. HEIF's and
JPEG XL's are applied by their decoders."""
_MAX_PAGES = 1000
"""Pages of a TIFF that are looked at: stacks of microscopes have some hundreds, all of one size."""
_STATED = (Tag.SMinSampleValue, Tag.SMaxSampleValue)
_STATED_UNSIGNED = (Tag.MinSampleValue, Tag.MaxSampleValue)
_GDAL_NODATA = 42113
_PNG_DROPPED = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
_TIFF_COMPRESSIONS = {
    34661: "JBIG", 34712: "JPEG 2000", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR",
    50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip

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
        rgb: uint8 (h, w, 3), upright; reduced where the decoder could save work.
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
        # Texts are found at both ends of a PNG; without them it is the file that browsers show.
        if error.code not in _OF_DAMAGE or not accepts("PNG", data):
            raise
        plain = _without_texts(data)
        if plain != data:
            with suppress(ImageError):
                return _decode(plain, config, side_px)
        raise


def _decode(data: bytes, config: ImageConfig, side_px: int) -> DecodedImage:
    image, name = _open(data)
    num_frames = _choose_frame(image)
    width, height = image.size
    if width * height > config.max_pixels:
        raise ImageError(
            ErrorCode.TOO_LARGE,
            f"{width} x {height} pixels, more than image.max_pixels = {config.max_pixels}",
        )
    try:
        # Of a TIFF, EXIF is gone when Pillow has turned the pixels, which it does by itself.
        orientation = _tiff_orientation(image) if isinstance(image, TiffImageFile) else 1
        if side_px:
            image.draft("RGB", (side_px, side_px))
        image.load()
        if name in _TURNED_BY_EXIF:  # a PNG's EXIF may come after its pixels
            orientation = orientation_of(image.info.get("exif", b""))
        deep, value_range = _with_8_bits(image, name, data)
        is_wanted = config.color_profiles == "convert"
        rgb, color_profile = to_srgb(deep, declared_colors(data, name, image.info), is_wanted)
        rgb = _opaque(rgb, is_bitmap=name in ("BMP", "DIB"))
        if name in _TURNED_BY_EXIF:
            rgb = upright_image(rgb, orientation)
        pixels = np.array(rgb)
    except MemoryError as error:
        raise ImageError(ErrorCode.OUT_OF_MEMORY, f"{width} x {height} pixels in {name}") from error
    except _DAMAGE as error:
        raise _damaged(data, name, error, image.info.get("compression", "")) from error
    if name in _TURNED_BY_EXIF and swaps_sides(orientation):
        width, height = height, width
    return DecodedImage(pixels, height, width, orientation, color_profile, num_frames, value_range)


def _open(data: bytes) -> tuple[ImageFile.ImageFile, str]:
    """Read the header; Image.open would judge the size by a limit that is global to the process."""
    for name in KNOWN_FORMATS:
        if not accepts(name, data):
            continue
        try:
            return Image.OPEN[name][0](io.BytesIO(data), ""), name
        except _DAMAGE as error:
            raise _damaged(data, name, error) from error
    what = missing_decoder_of(data) or f"the content begins with {data[:8]!r}"
    raise ImageError(ErrorCode.NOT_AN_IMAGE, f"{what}; known formats: {', '.join(KNOWN_FORMATS)}")


def _without_texts(data: bytes) -> bytes:
    """Return a PNG without its texts, and without a profile that Pillow refuses to unpack.

    Browsers show such a file whatever its texts hold, also with a wrong checksum.
    """
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        is_long_profile = kind == b"iCCP" and _unpacks_to_more(data[place + 8 : end - 4])
        if kind not in _PNG_DROPPED and not is_long_profile:
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def _unpacks_to_more(profile: bytes, limit: int = 1 << 20) -> bool:
    packed = profile.partition(b"\0")[2][1:]
    try:
        return len(zlib.decompressobj().decompress(packed, limit + 1)) > limit
    except zlib.error:
        return True


def _choose_frame(image: ImageFile.ImageFile) -> int:
    """Go to the frame or page that is decoded; return how many the file has."""
    if isinstance(image, TiffImageFile):
        num_frames = _choose_page(image)
    else:
        try:
            num_frames = int(getattr(image, "n_frames", 1))
            if getattr(image, "default_image", False) and num_frames > 1:
                image.seek(1)  # the first is for programs that know no animated PNG
                num_frames -= 1
        except _DAMAGE:  # what follows the first frame is damaged
            with suppress(*_DAMAGE):
                image.seek(0)
            num_frames = 1
    if num_frames > 1:
        _say_once()
    return num_frames


def _choose_page(image: TiffImageFile) -> int:
    """Go to the largest page that is no reduced copy; return how many can be read."""
    best, best_rank, num_pages = 0, (-1, 0), 0
    with suppress(*_DAMAGE):  # EOFError after the last one; the directory of one may be damaged
        for page in range(_MAX_PAGES):
            image.seek(page)
            num_pages += 1
            is_reduced = bool(image.tag_v2.get(Tag.NewSubfileType, 0) & 1)
            is_reduced |= image.tag_v2.get(Tag.SubfileType) == 2
            rank = (not is_reduced, image.size[0] * image.size[1])
            if rank > best_rank:
                best, best_rank = page, rank
    if image.tell() != best:
        image.seek(best)
    return max(1, num_pages)


@cache
def _say_once() -> None:
    logger.warning(
        "some files have several frames or pages: the first frame, or the largest page, is "
        "annotated (column num_frames of the images table)"
    )


def _with_8_bits(image: ImageFile.ImageFile, name: str, data: bytes) -> tuple[Image.Image, str]:
    """Return a loaded image with 8 bits per channel, and the rule by which it has them."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        values = np.asarray(image)
        declared = DeclaredRange()
        if isinstance(image, TiffImageFile):
            declared = _declared_range(image)
            is_unsigned = image.tag_v2.get(Tag.SampleFormat, (1,)) == (1,)
            if image.tag_v2.get(Tag.BitsPerSample) == (32,) and is_unsigned:
                values = values.view(np.uint32)  # Pillow has no unsigned mode of 32 bits
        grey, rule = to_8_bits(values, declared)
        return Image.fromarray(grey), rule
    if isinstance(image, TiffImageFile):
        is_deep = image.tag_v2.get(Tag.BitsPerSample, ())[:1] == (16,)
    else:
        is_deep = name == "PNG" and data[24:25] == b"\x10"
    if not is_deep:
        return image, ""
    # Pillow has kept the upper 8 of 16 bits. Where all are small, the numbers have fewer bits.
    if image.mode == "RGB" and image.tell() == 0 and np.asarray(image).max() < 128:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if bgr is not None and bgr.dtype == np.uint16 and bgr.ndim == 3:
            colours, rule = to_8_bits(bgr[..., 2::-1], DeclaredRange())
            turned = Image.fromarray(np.ascontiguousarray(colours))
            if turned.size == image.size:
                return turned, rule
    return image, "0 to 65535"


def _declared_range(image: TiffImageFile) -> DeclaredRange:
    tags = image.tag_v2
    low, high = (_first_number(tags.get(tag)) for tag in _STATED)
    if low is None or high is None:
        low, high = (_first_number(tags.get(tag)) for tag in _STATED_UNSIGNED)
    nodata = _first_number(tags.get(_GDAL_NODATA))
    is_zero_white = tags.get(Tag.PhotometricInterpretation) == 0
    return DeclaredRange(low, high, nodata, is_zero_white)


def _first_number(value: object) -> float | None:
    first = value[0] if isinstance(value, tuple) and value else value
    try:
        return float(str(first).strip(" \0"))
    except ValueError:
        return None


def _damaged(data: bytes, name: str, error: Exception, compression: str = "") -> ImageError:
    reason = str(error) or type(error).__name__
    if name == "TIFF" and reason.isdigit():  # Pillow says no more of a compression than its number
        compression = _TIFF_COMPRESSIONS.get(int(reason), "")
        reason = f"compression {reason} is not known"
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


def _tiff_orientation(image: TiffImageFile) -> int:
    try:
        value = image.getexif().get(Tag.Orientation, 1)
    except _DAMAGE:  # damaged metadata says nothing about the pixels
        return 1
    return int(value) if is_orientation(value) else 1


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
