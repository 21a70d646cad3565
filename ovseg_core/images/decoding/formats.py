"""Which image formats can be decoded here, and how a file's content tells its format.

Only formats that Pillow or its two plug-ins decode themselves are tried: some of Pillow's other
plug-ins start programs (Ghostscript) on the file.
"""

import struct
from importlib import import_module
from importlib.util import find_spec

from PIL import Image

_FORMATS = {
    "JPEG": "JpegImagePlugin", "PNG": "PngImagePlugin", "WEBP": "WebPImagePlugin",
    "BMP": "BmpImagePlugin", "TIFF": "TiffImagePlugin", "GIF": "GifImagePlugin",
    "AVIF": "AvifImagePlugin", "JPEG2000": "Jpeg2KImagePlugin", "PPM": "PpmImagePlugin",
    "DIB": "BmpImagePlugin", "TGA": "TgaImagePlugin",
}  # fmt: skip
"""Formats that Pillow decodes, in the order in which they are tried, with their plug-in."""

_OPTIONAL = (
    ("HEIF", "pillow_heif", "heif", (".heic", ".heics", ".heif", ".heifs", ".hif")),
    ("JXL", "pillow_jxl", "jxl", (".jxl",)),
)
"""Format, package, ovseg's extra that brings it, endings."""
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_JXL_BEGINNINGS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_TGA_HEADER = struct.Struct("<BBBHHBHHHHBB")
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"

_INSTALLED: set[str] = set()
_BROKEN: dict[str, str] = {}
"""Packages that are installed and cannot be loaded, with the reason."""

for _module in _FORMATS.values():
    import_module(f"PIL.{_module}")
for _, _package, *_ in _OPTIONAL:
    if find_spec(_package) is None:
        continue
    try:
        _plugin = import_module(_package)  # pillow_jxl registers itself
        if _package == "pillow_heif":
            _plugin.register_heif_opener(thumbnails=False)
        _INSTALLED.add(_package)
    except (ImportError, OSError, AttributeError, RuntimeError) as _error:
        _BROKEN[_package] = f"{type(_error).__name__}: {_error}"

KNOWN_FORMATS = (*_FORMATS, *(name for name, package, *_ in _OPTIONAL if package in _INSTALLED))
"""Formats that can be decoded here, in the order in which they are tried."""


def missing_decoders() -> dict[str, str]:
    """Return how to get the decoder of each file name ending that lacks one here."""
    hints: dict[str, str] = {}
    for _, package, extra, endings in _OPTIONAL:
        if package in _INSTALLED:
            continue
        hint = f"pip install 'ovseg[{extra}]'"
        if package in _BROKEN:
            hint += f"; {package} is here but does not load: {_BROKEN[package]}"
        hints |= dict.fromkeys(endings, hint)
    return hints


def missing_decoder_of(data: bytes) -> str:
    """Return what a file is and how to get its decoder, if that is not installed; else empty."""
    kinds = {".heic": "HEIC", ".jxl": "JPEG XL"}
    ending = ".heic" if _is_heif(data) else ".jxl" if data.startswith(_JXL_BEGINNINGS) else ""
    hint = missing_decoders().get(ending)
    return f"{kinds[ending]} needs {hint}" if hint else ""


def accepts(name: str, data: bytes) -> bool:
    """Return whether a file's content is of a format, by its first bytes."""
    factory, accept = Image.OPEN.get(name, (None, None))
    if factory is None:
        return False
    if name == "TGA":
        return _is_tga(data)
    if name in ("AVIF", "HEIF") and _is_heif(data) != (name == "HEIF"):
        return False  # both begin with `ftyp`, and Pillow's test of AVIF takes HEIF's brand mif1
    if name == "DIB" and len(data) < 4:
        return False
    # A text in place of True means that this Pillow was built without the format.
    return accept is not None and accept(data[:16]) is True


def _is_heif(data: bytes) -> bool:
    if data[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, length, 4))}
    return bool(brands & _HEIF_BRANDS) and not brands & _AVIF_BRANDS


def _is_tga(data: bytes) -> bool:
    """TGA has no magic number: its footer, or a header that fits the length."""
    if len(data) < _TGA_HEADER.size:
        return False
    fields = _TGA_HEADER.unpack_from(data)
    map_type, kind, width, height, depth, flags = fields[1], fields[2], *fields[8:12]
    is_header = (
        map_type in (0, 1)
        and (map_type == 1) == (kind in (1, 9))
        and kind in (1, 2, 3, 9, 10, 11)
        and width > 0
        and height > 0
        and depth in (8, 15, 16, 24, 32)
        and not flags & 0xC0
    )
    if not is_header or data.endswith(_TGA_FOOTER):
        return is_header
    pixels = width * height * -(-depth // 8)
    # Packed lines are at least a 128th of the pixels.
    return len(data) > _TGA_HEADER.size + (pixels // 128 if kind > 8 else pixels - 1)
