"""Decode an image file to RGB pixels in the frame that a person sees.

The content decides on the format, never the file's name, see `formats`. Pillow lets other threads
run while it decodes.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from pipeline.collection.color import to_srgb
from pipeline.collection.color_profile import DeclaredColors, declared_colors
from pipeline.collection.exif import is_orientation, swaps_sides, upright_image
from pipeline.collection.formats import KNOWN_FORMATS, accepts, missing_decoder_of
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError

# All that Pillow's plugins raise on damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip
_BACKDROP = (255, 255, 255)

# Pillow warns about odd metadata of files that it decodes well: noise, over a whole collection.
warnings.filterwarnings("ignore", module=r"PIL\.")


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
    """

    rgb: NDArray[np.uint8]
    height: int
    width: int
    exif_orientation: int
    color_profile: str = ""


def decode(data: bytes, config: ImageConfig, side_px: int = 0) -> DecodedImage:
    """Decode one image file.

    The first frame of an animation is taken. Transparency is laid on white. Grey of 16 bits is
    divided by 257; of 32 bits and of floats by the smallest of 1 (floats), 255, 65535 and the
    image's maximum that holds it. Colours become sRGB, see `color.to_srgb`.

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
    image, name = _open(data)
    width, height = image.size
    if width * height > config.max_pixels:
        raise ImageError(
            ErrorCode.TOO_LARGE,
            f"{width} x {height} pixels, more than image.max_pixels = {config.max_pixels}",
        )
    is_turned_here = name != "TIFF"  # Pillow's TIFF plugin turns the pixels and the size by itself
    try:
        # Of a PNG, Pillow reads all pixels when asked for EXIF; damage would then pass for EXIF's,
        # and the image be black. Of a TIFF, EXIF is gone when the pixels are turned.
        orientation = 1 if name == "PNG" else _orientation(image)
        if side_px:
            image.draft("RGB", (side_px, side_px))
        image.load()
        if name == "PNG":
            orientation = _orientation(image)
        is_wanted = config.color_profiles == "convert"
        rgb, color_profile = _rgb(image, declared_colors(data, name, image.info), is_wanted)
        if is_turned_here:
            rgb = upright_image(rgb, orientation)
        pixels = np.array(rgb)
    except MemoryError as error:
        raise ImageError(ErrorCode.OUT_OF_MEMORY, f"{width} x {height} pixels in {name}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(ErrorCode.TOO_LARGE, str(error)) from error
    except _DAMAGE as error:
        raise _damaged(data, name, error) from error
    if is_turned_here and swaps_sides(orientation):
        width, height = height, width
    return DecodedImage(pixels, height, width, orientation, color_profile)


def _open(data: bytes) -> tuple[ImageFile.ImageFile, str]:
    """Read the header; Image.open would judge the size by a limit that is global to the process."""
    for name in KNOWN_FORMATS:
        if not accepts(name, data):
            continue
        try:
            return Image.OPEN[name][0](io.BytesIO(data), ""), name
        except Image.DecompressionBombError as error:
            raise ImageError(ErrorCode.TOO_LARGE, str(error)) from error
        except _DAMAGE as error:
            raise _damaged(data, name, error) from error
    what = missing_decoder_of(data) or f"the content begins with {data[:8]!r}"
    raise ImageError(ErrorCode.NOT_AN_IMAGE, f"{what}; known formats: {', '.join(KNOWN_FORMATS)}")


def _damaged(data: bytes, name: str, error: Exception) -> ImageError:
    reason = str(error) or type(error).__name__
    cut = "truncated" in reason.lower() or _ends_early(data, name)
    code = ErrorCode.TRUNCATED if cut else ErrorCode.UNDECODABLE
    return ImageError(code, f"{name} of {len(data)} bytes: {reason}")


def _ends_early(data: bytes, name: str) -> bool:
    if name == "WEBP":
        return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if name == "GIF":
        return not data.endswith(b";")
    ends = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
    return name in ends and ends[name] not in data[-64:]


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:  # damaged metadata says nothing about the pixels
        return 1
    return int(value) if is_orientation(value) else 1


def _rgb(
    image: Image.Image, declared: DeclaredColors | None, is_wanted: bool
) -> tuple[Image.Image, str]:
    """Return an image as opaque sRGB of 8 bits, and the note of `to_srgb`."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_grey_8bit(np.asarray(image), image.mode))
    image, note = to_srgb(image, declared, is_wanted)
    return _opaque(image), note


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, _BACKDROP)
        rgb.paste(layer, mask=layer.getchannel("A"))
        return rgb
    return image.convert("RGB")


def _grey_8bit(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    grey = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(grey.max())
    if mode.startswith("I;"):
        full = 65535.0
    else:
        steps = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
        full = next((step for step in steps if top <= step), top)
    return (np.clip(grey / full, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
