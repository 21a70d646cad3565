"""Image files of every awkward kind, made on the spot: no binary files in the repository."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.errors import ErrorCode

HEIGHT, WIDTH = 24, 40
"""Size of the sample picture: not square."""


@dataclass(frozen=True)
class Sample:
    """One file: its bytes and what becomes of it. `size_hw` is of the upright image."""

    data: bytes
    size_hw: tuple[int, int] = (HEIGHT, WIDTH)
    error: ErrorCode | None = None
    orientation: int = 1


def picture(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Return uint8 (height, width, 3): another colour in each corner, smooth between (for JPEG)."""
    y = np.linspace(0.0, 1.0, height)[:, None, None]
    x = np.linspace(0.0, 1.0, width)[None, :, None]
    corners = np.array(
        [[[230, 30, 30], [30, 220, 40]], [[40, 50, 230], [240, 230, 60]]], dtype=float
    )
    top = corners[0, 0] * (1 - x) + corners[0, 1] * x
    bottom = corners[1, 0] * (1 - x) + corners[1, 1] * x
    return (top * (1 - y) + bottom * y).round().astype(np.uint8)


def encoded(image: Image.Image | NDArray[np.uint8], kind: str = "PNG", **options: object) -> bytes:
    """Return an image as a file of the given Pillow format."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(
    orientation: int, kind: str = "JPEG", size_hw: tuple[int, int] = (HEIGHT, WIDTH)
) -> bytes:
    """Return a file that shows `picture(*size_hw)` upright, stored turned with its EXIF tag."""
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = Image.fromarray(picture(*size_hw))
    if back is not None:
        image = image.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"quality": 95} if kind == "JPEG" else {}
    return encoded(image, kind, exif=exif.tobytes() if kind != "TIFF" else exif, **quality)


def png_bomb(side_px: int = 20_000) -> bytes:
    """Return a small PNG that declares side_px x side_px pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checked = name + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 4096)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def palette_with_transparency() -> Image.Image:
    """Return a palette image whose left half is transparent."""
    image = Image.fromarray(picture()).quantize(16)
    index = np.asarray(image).copy()
    index[:, : WIDTH // 2] = 15
    clear = Image.fromarray(index, "P")
    clear.putpalette(image.getpalette() or [])
    clear.info["transparency"] = 15
    return clear


def rgba() -> Image.Image:
    """Return the picture with a transparent left half."""
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, : WIDTH // 2] = 0
    return Image.fromarray(np.concatenate([picture(), alpha], axis=2))


def samples() -> dict[str, Sample]:
    """Return the awkward set by file name."""
    rgb = Image.fromarray(picture())
    jpeg, png = encoded(rgb, "JPEG", quality=95), encoded(rgb)
    grey16 = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    frames = [rgb, Image.new("RGB", rgb.size, "black")]
    good = {
        "plain.jpg": jpeg,
        "plain.png": png,
        "plain.webp": encoded(rgb, "WEBP", lossless=True),
        "plain.bmp": encoded(rgb, "BMP"),
        "plain.tif": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "plain.avif": encoded(rgb, "AVIF", quality=95),
        "UPPER.JPG": jpeg,
        "really-a-png.jpg": png,
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "progressive.jpg": encoded(rgb, "JPEG", quality=95, progressive=True),
        "grey.png": encoded(rgb.convert("L")),
        "grey16.png": encoded(grey16),
        "grey16.tif": encoded(grey16, "TIFF"),
        "float.tif": encoded(Image.fromarray(picture()[..., 0].astype(np.float32) / 255), "TIFF"),
        "int32.tif": encoded(Image.fromarray(picture()[..., 0].astype(np.int32) * 257), "TIFF"),
        "bilevel.png": encoded(rgb.convert("1")),
        "palette.png": encoded(rgb.quantize(32)),
        "palette-clear.png": encoded(palette_with_transparency()),
        "rgba.png": encoded(rgba()),
        "grey-alpha.png": encoded(rgba().convert("LA")),
        "colour-key.png": encoded(rgb, "PNG", transparency=(230, 30, 30)),
        "animated.gif": encoded(rgb, "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encoded(
            rgb, "WEBP", save_all=True, append_images=frames[1:], lossless=True
        ),
        "name with space #1 100%~.png": png,
        "ünïcödé-日本.jpg": jpeg,
    }
    bad = {
        "empty.jpg": (b"", ErrorCode.EMPTY_FILE),
        "text.jpg": (b"this is no image at all\n" * 9, ErrorCode.NOT_AN_IMAGE),
        "postscript.jpg": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            ErrorCode.NOT_AN_IMAGE,
        ),
        "cut.jpg": (jpeg[: len(jpeg) // 2], ErrorCode.TRUNCATED),
        "cut.png": (png[: len(png) // 2], ErrorCode.TRUNCATED),
        "scratched.png": (png[:60] + bytes(30) + png[90:], ErrorCode.UNDECODABLE),
        "cut.webp": (good["plain.webp"][:120], ErrorCode.TRUNCATED),
        "cut.gif": (good["animated.gif"][:60], ErrorCode.TRUNCATED),
        "stub.jpg": (jpeg[:20], ErrorCode.TRUNCATED),
        "bomb.png": (png_bomb(), ErrorCode.TOO_LARGE),
    }
    return (
        {name: Sample(data) for name, data in good.items()}
        | {name: Sample(data, (0, 0), code) for name, (data, code) in bad.items()}
        | {f"exif-{k}.jpg": Sample(with_orientation(k), orientation=k) for k in range(1, 9)}
        | {
            "one-pixel.png": Sample(encoded(picture(1, 1)), (1, 1)),
            "thin.png": Sample(encoded(picture(4, 3000)), (4, 3000)),
            "tall.jpg": Sample(encoded(picture(3000, 4), "JPEG"), (3000, 4)),
        }
    )


def write_image_files(folder: Path) -> dict[str, Sample]:
    """Write the awkward set into a folder and return it by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    found = samples()
    for name, sample in found.items():
        (folder / name).write_bytes(sample.data)
    return found
