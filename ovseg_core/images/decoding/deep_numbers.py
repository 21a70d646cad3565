"""Images of more than 8 bits: which numbers their files hold, and what they say of them.

Pillow keeps the upper 8 of the 16 bits of colours. Where that loses the picture, the lower ones are
read too: of a TIFF by Pillow in a second pass, as OpenCV mistakes its turns and planes; of other
formats by OpenCV.
"""

import io
import re
import sys
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile

from ovseg_core.images.decoding.exif import upright_image
from ovseg_core.images.decoding.png_chunks import without_chunks
from ovseg_core.images.decoding.value_range import DeclaredRange, to_8_bits, white_of
from schemas.errors import ErrorCode, ImageError

_STATED = (Tag.SMinSampleValue, Tag.SMaxSampleValue)
_STATED_UNSIGNED = (Tag.MinSampleValue, Tag.MaxSampleValue)
_GDAL_NODATA = 42113
_COLOURS = {"RGB": 3, "RGBA": 3, "CMYK": 4}
"""Number of colours by mode; RGBA has alpha after them."""
_APART = 2
"""TIFF's PlanarConfiguration: all of one colour, then all of the next."""
_MULTIPLIED = (1,)
"""TIFF's ExtraSamples: alpha, by which the colours are multiplied."""
_WHITE_16 = 65535
_FEW_BITS = 128
"""Where the upper 8 of 16 bits are below this, the numbers have 15 bits or fewer."""
_LOWER_HALF = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
"""How Pillow names the order of bytes in which it takes the lower half of 16 bits for the upper."""

# OpenCV would write to standard error, without the name of the file.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def with_8_bits(image: ImageFile.ImageFile, name: str, data: bytes) -> tuple[Image.Image, str]:
    """Return a loaded image with 8 bits per channel, and the rule by which it has them.

    Args:
        image: loaded.
        name: its format.
        data: its file; of a TIFF the image is the first page.

    Raises:
        ImageError: `undecodable`: no number counts, or those that do cannot be read.
    """
    white = _declared_white(image, name, data)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _grey(image, white)
    if white <= 255:
        return image, ""
    if white != _WHITE_16:
        return image, f"0 to {white} (stated)"
    if image.mode not in _COLOURS:
        return image, "0 to 65535"
    declared = _declared_range(image)
    if not _needs_all_bits(image, declared):
        return image, "0 to 65535"
    numbers = _all_bits(image, name, data)
    if numbers is None or numbers.shape[:2] != image.size[::-1]:
        reason = "its numbers have few of their 16 bits, and the lower ones cannot be read"
        raise ImageError(ErrorCode.UNDECODABLE, f"{name} of {len(data)} bytes: {reason}")
    return _colours(numbers, image, declared)


def _grey(image: ImageFile.ImageFile, white: int) -> tuple[Image.Image, str]:
    values = np.asarray(image)
    declared = DeclaredRange()
    if isinstance(image, TiffImageFile):
        declared = _declared_range(image)
        is_unsigned = image.tag_v2.get(Tag.SampleFormat, (1,)) == (1,)
        if image.tag_v2.get(Tag.BitsPerSample) == (32,) and is_unsigned:
            values = values.view(np.uint32)  # Pillow has no unsigned mode of 32 bits
    elif white not in (255, _WHITE_16):  # Pillow has brought that white to 16 bits
        declared = DeclaredRange(0, _WHITE_16)
    levels, rule = to_8_bits(values, declared)
    grey = Image.fromarray(levels)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray((values != clear).astype(np.uint8) * np.uint8(255)))
    return grey, rule if declared.high != _WHITE_16 else f"0 to {white} (stated)"


def _declared_white(image: ImageFile.ImageFile, name: str, data: bytes) -> int:
    """Return the number that is white by the file's depth.

    65535 is what everybody writes into files of 16 bits; it says nothing of how many are used.
    """
    if isinstance(image, TiffImageFile):
        return _WHITE_16 if image.tag_v2.get(Tag.BitsPerSample, ())[:1] == (16,) else 255
    if name == "PNG":
        return _WHITE_16 if data[24:25] == b"\x10" else 255
    if name == "PPM":
        words = re.sub(rb"#[^\r\n]*", b"", data[:2048]).split(maxsplit=4)
        is_number = data[:2] not in (b"P1", b"P4") and len(words) > 3 and words[3].isdigit()
        return int(words[3]) if is_number else 255
    if name == "JPEG2000":
        start = data.find(b"\xff\x4f\xff\x51")
        bits = (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else 8
    elif name in ("AVIF", "HEIF"):
        start = data.find(b"pixi")
        bits = data[start + 9] if 0 <= start < len(data) - 9 else 8
    else:
        return 255
    return 2 ** min(max(bits, 8), 16) - 1


def _declared_range(image: ImageFile.ImageFile) -> DeclaredRange:
    """Return what a TIFF says about its numbers; of several channels the widest range."""
    if not isinstance(image, TiffImageFile):
        return DeclaredRange()
    tags = image.tag_v2
    for low_tag, high_tag in (_STATED, _STATED_UNSIGNED):
        low, high = _numbers(tags.get(low_tag)), _numbers(tags.get(high_tag))
        if low and high:
            break
    nodata = _numbers(tags.get(_GDAL_NODATA))
    is_zero_white = tags.get(Tag.PhotometricInterpretation) == 0
    return DeclaredRange(
        min(low) if low and high else None,
        max(high) if low and high else None,
        nodata[0] if nodata else None,
        is_zero_white,
    )


def _numbers(value: object) -> list[float]:
    values = value if isinstance(value, tuple) else (value,)
    try:
        return [float(str(one).strip(" \0")) for one in values]
    except ValueError:
        return []


def _needs_all_bits(image: ImageFile.ImageFile, declared: DeclaredRange) -> bool:
    upper = np.asarray(image)
    num_colours = _COLOURS[image.mode]
    return (
        declared != DeclaredRange()
        or "transparency" in image.info
        or upper[..., :num_colours].max() < _FEW_BITS
        or (upper.shape[2] > num_colours and upper[..., num_colours].max() < _FEW_BITS)
        or (isinstance(image, TiffImageFile) and _has_plain_planes(image))
    )


def _all_bits(image: ImageFile.ImageFile, name: str, data: bytes) -> NDArray[np.uint16] | None:
    """Return the numbers (h, w, channels) of an image of 16 bits; None: they cannot be read."""
    if isinstance(image, TiffImageFile):
        return _planes(data) if _has_plain_planes(image) else _tiff_numbers(data)
    if name == "PNG":
        data = without_chunks(data, (b"iCCP",))  # OpenCV writes about damaged ones
    elif name == "PPM":
        data += b"\n"  # OpenCV reads on behind the last number
    try:
        numbers = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if numbers is None or numbers.dtype != np.uint16 or numbers.ndim != 3:
        return None
    return numbers[..., [2, 1, 0, 3][: numbers.shape[2]]].astype(np.uint16, copy=False)


def _has_plain_planes(image: TiffImageFile) -> bool:
    """Return whether each colour lies apart and is not packed: Pillow reads it wrongly."""
    are_apart = image.tag_v2.get(Tag.PlanarConfiguration) == _APART
    return are_apart and image.info.get("compression") == "raw"


def _planes(data: bytes) -> NDArray[np.uint16] | None:
    image = TiffImageFile(io.BytesIO(data))
    tags = image.tag_v2
    height, width = (tags.get(tag, 0) for tag in (Tag.ImageLength, Tag.ImageWidth))
    strips = zip(tags.get(Tag.StripOffsets, ()), tags.get(Tag.StripByteCounts, ()), strict=False)
    numbers = b"".join(data[start : start + size] for start, size in strips)
    num_planes = tags.get(Tag.SamplesPerPixel, 0)
    if len(numbers) != 2 * num_planes * height * width:
        return None
    order = "<" if data[:2] == b"II" else ">"
    stored = np.frombuffer(numbers, f"{order}u2").reshape(num_planes, height, width)
    turn = tags.get(Tag.Orientation, 1)
    planes = (Image.fromarray(plane.astype(np.uint16)) for plane in stored)
    return np.stack([np.asarray(upright_image(plane, turn)) for plane in planes], axis=-1)


def _tiff_numbers(data: bytes) -> NDArray[np.uint16] | None:
    halves = []
    for is_lower in (False, True):
        image = TiffImageFile(io.BytesIO(data))
        if image.tag_v2.get(Tag.PlanarConfiguration) == _APART:
            return None  # libtiff's planes have their upper half only
        tiles = []
        for tile in image.tile:
            raw_mode, *rest = tuple(tile.args or ())
            base, _, order = raw_mode.partition(";16")
            order = _LOWER_HALF[order] if is_lower else order
            # Without Pillow's division by alpha, which the halves do not allow.
            tiles.append(tile._replace(args=(f"{base.replace('RGBa', 'RGBA')};16{order}", *rest)))
        image.tile = tiles
        halves.append(np.asarray(image).astype(np.uint16))
    return halves[0] << 8 | halves[1]


def _colours(
    numbers: NDArray[np.uint16], image: ImageFile.ImageFile, declared: DeclaredRange
) -> tuple[Image.Image, str]:
    """Return numbers (h, w, channels) as 8 bits; alpha has their range where it fits into it."""
    num_colours = _COLOURS[image.mode]
    colours, alpha = numbers[..., :num_colours], numbers[..., num_colours:]
    levels, rule = to_8_bits(colours, replace(declared, is_zero_white=False))
    if not alpha.size or (image.mode == "RGB" and "transparency" not in image.info):
        return Image.fromarray(np.ascontiguousarray(levels), image.mode), rule
    white = white_of(int(colours.max()))
    white = white if alpha.max() <= white else _WHITE_16
    clear = (alpha[..., :1] * (255.0 / white) + 0.5).astype(np.uint8)
    joined = Image.fromarray(np.dstack([levels, clear]))
    if isinstance(image, TiffImageFile) and image.tag_v2.get(Tag.ExtraSamples) == _MULTIPLIED:
        joined = Image.frombytes("RGBa", joined.size, joined.tobytes()).convert("RGBA")
    return joined, rule
