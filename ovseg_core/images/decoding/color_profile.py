"""What an image file says about its colours, as an ICC profile.

Most files say it by an ICC profile. PNG has chunks of numbers for it as well (cICP, sRGB, gAMA and
cHRM, in this order of weight: cICP beats a profile), AVIF and HEIF have the box `colr`. Profiles
are written here from such numbers, as Chromium reads them. Tags of TIFF and EXIF that browsers
ignore too are not read.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg_core.images.decoding.png_chunks import chunks_before_pixels

Chromaticities = tuple[float, ...]
"""x and y of white, red, green and blue: eight numbers."""

_D65 = (0.3127, 0.3290)
_D50_XYZ = (0.9642, 1.0, 0.8249)
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""Of ICC's parametric curve 3: g, a, b, c, d."""
_SRGB_PRIMARIES: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Chromaticities] = {
    1: _SRGB_PRIMARIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""Code points of ITU-T H.273."""
_UNSPECIFIED = (0, 2, 3)
_SRGB_TRANSFER = 13
_VIDEO_TRANSFERS = (1, 6, 14, 15)
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_PNG_COLORS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")


@dataclass(frozen=True)
class DeclaredColors:
    """What a file says about its colours.

    Attributes:
        icc: the profile, as it stands in the file or written from the file's numbers.
        problem: why there is none although the file says something; empty where `icc` is given.
    """

    icc: bytes = b""
    problem: str = ""


def declared_colors(data: bytes, kind: str, info: Mapping[Any, Any]) -> DeclaredColors | None:
    """Return what an image file says about its colours; None: nothing, or that they are sRGB.

    Args:
        data: content of the file.
        kind: Pillow's name of its format.
        info: what Pillow read beside the pixels; profiles are taken from here.
    """
    icc = info.get("icc_profile") or b""
    if not isinstance(icc, bytes):  # a TIFF may hold numbers or text under the profile's tag
        return DeclaredColors(problem="a profile that is no bytes")
    numbers: DeclaredColors | None = None
    if kind in ("JPEG", "PNG") and not icc and "icc_profile" in info:  # parts of it are missing
        numbers = DeclaredColors(problem="a damaged profile")
    if kind == "PNG":
        chunks = dict(chunks_before_pixels(data, _PNG_COLORS))
        if b"cICP" in chunks:
            return _by_code_points(chunks[b"cICP"][:2], "cICP")
        if numbers is None and not icc and b"sRGB" not in chunks:
            numbers = _by_gamma(chunks)
    elif kind in ("AVIF", "HEIF") and not icc:
        numbers = _by_nclx(data)
    elif kind == "JPEG2000" and not icc:
        icc = next((box[3:] for box in _boxes(data, b"jp2h", b"colr") if box[:1] == b"\2"), b"")
    elif kind == "BMP":
        icc = _bmp_profile(data)
    return DeclaredColors(icc) if icc else numbers


def rgb_profile(
    name: str, chromaticities: Chromaticities, curve: float | tuple[float, ...]
) -> bytes:
    """Return an ICC profile of three primaries and one curve.

    Args:
        name: of the profile.
        chromaticities: x and y of white, red, green and blue.
        curve: an exponent, or ICC's parametric curve 3 (g, a, b, c, d).

    Raises:
        ValueError: the chromaticities do not span a colour space.
    """
    if isinstance(curve, tuple):
        tone = struct.pack(">4s4xHxx5i", b"para", 3, *(_fixed(value) for value in curve))
    else:
        tone = struct.pack(">4s4xHxxi", b"para", 0, _fixed(curve))
    text = name.encode("ascii", "replace") + b"\0"
    tags = [(b"desc", struct.pack(">4s4xI", b"desc", len(text)) + text + bytes(78))]
    tags += [(b"wtpt", _xyz(_D50_XYZ))]
    for letter, column in zip(b"rgb", _colorants(chromaticities).T, strict=True):
        tags += [(bytes([letter]) + b"XYZ", _xyz(column)), (bytes([letter]) + b"TRC", tone)]
    return icc_file(b"mntr", b"RGB ", b"XYZ ", tags)


def icc_file(
    device: bytes, space: bytes, connection: bytes, tags: list[tuple[bytes, bytes]]
) -> bytes:
    """Return an ICC file of version 2.4.

    Args:
        device: class, four letters.
        space: of the image's colours, four letters.
        connection: space that they are mapped to, `XYZ ` or `Lab `.
        tags: signatures and contents.
    """
    directory, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for signature, content in tags:
        directory += struct.pack(">4sII", signature, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = start + len(body)
    head = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, device, space, connection, b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(_fixed(value) for value in _D50_XYZ))
    return head.ljust(128, b"\0") + directory + body


def _by_code_points(codes: bytes, source: str) -> DeclaredColors | None:
    """Return the profile of primaries and transfer of ITU-T H.273."""
    if len(codes) < 2:
        return None
    primaries, transfer = codes
    if transfer in _HDR_TRANSFERS:
        return DeclaredColors(problem=f"{source} of HDR ({_HDR_TRANSFERS[transfer]})")
    curve: float | tuple[float, ...] | None = _POWERS.get(transfer)
    if transfer == _SRGB_TRANSFER or transfer in _UNSPECIFIED:
        curve = _SRGB_CURVE
    elif transfer in _VIDEO_TRANSFERS:
        # As Chromium: those of a video camera in PNG, in AVIF what cameras write for sRGB.
        curve = 2.4 if source == "cICP" else _SRGB_CURVE
    points = _SRGB_PRIMARIES if primaries in _UNSPECIFIED else _PRIMARIES.get(primaries)
    if curve is None or points is None:
        return DeclaredColors(problem=f"{source} {primaries}/{transfer} is not known")
    if (points, curve) == (_SRGB_PRIMARIES, _SRGB_CURVE):
        return None
    return DeclaredColors(rgb_profile(f"{source} {primaries}/{transfer}", points, curve))


def _by_nclx(data: bytes) -> DeclaredColors | None:
    for box in _boxes(data, b"meta", b"iprp", b"ipco", b"colr"):
        if box[:4] == b"nclx" and len(box) >= 8:
            primaries, transfer = struct.unpack(">HH", box[4:8])
            return _by_code_points(bytes((min(primaries, 255), min(transfer, 255))), "nclx")
    return None


def _by_gamma(chunks: Mapping[bytes, bytes]) -> DeclaredColors | None:
    """Return the profile of gAMA and cHRM; cHRM alone says nothing to browsers."""
    gamma = int.from_bytes(chunks.get(b"gAMA", b"")[:4], "big")
    if not gamma:
        return None
    points, white = _SRGB_PRIMARIES, chunks.get(b"cHRM", b"")
    if len(white) >= 32:
        points = tuple(value / 100_000 for value in struct.unpack(">8I", white[:32]))
    # The PNG specification's numbers for sRGB are 0.45455 and sRGB's points; 5 % are libpng's.
    is_about_srgb = abs(gamma / 45455 - 1) < 0.05
    if is_about_srgb and np.allclose(points, _SRGB_PRIMARIES, atol=1e-3):
        return None
    try:
        return DeclaredColors(rgb_profile(f"gAMA {gamma / 100_000:g}", points, 100_000 / gamma))
    except (ValueError, ArithmeticError, struct.error):
        return DeclaredColors(problem="gAMA and cHRM that span no colour space")


def _bmp_profile(data: bytes) -> bytes:
    """Return the profile that is embedded in a BMP with a header of version 5."""
    if len(data) < 138 or data[14:18] != b"\x7c\0\0\0" or data[70:74] != b"DEBM":
        return b""
    offset, size = struct.unpack_from("<II", data, 126)
    return data[14 + offset : 14 + offset + size]


def _boxes(data: bytes, *path: bytes) -> Iterator[bytes]:
    """Yield the contents of boxes of ISO's media format or JPEG 2000, by their types' path."""
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1 and start + 16 <= len(data):
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        end = start + size if size else len(data)
        if size and size < header:
            return
        if kind == path[0]:
            content = data[start + header + (4 if kind == b"meta" else 0) : end]
            if len(path) == 1:
                yield content
            else:
                yield from _boxes(content, *path[1:])
        start = end


def _colorants(chromaticities: Chromaticities) -> NDArray[np.float64]:
    """Return XYZ of the primaries as columns, adapted from their white to D50 by Bradford."""
    points = np.array(chromaticities).reshape(4, 2)
    if not (points[:, 1] > 0).all():
        raise ValueError("a chromaticity with y = 0")
    x, y = points.T
    white, *primaries = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    columns = np.array(primaries).T
    try:
        columns = columns * np.linalg.solve(columns, white)
        cones = np.array(
            [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
        )
        adapted = np.diag((cones @ _D50_XYZ) / (cones @ white))
        return np.linalg.solve(cones, adapted @ cones @ columns)
    except np.linalg.LinAlgError as error:
        raise ValueError(str(error)) from error


def _xyz(values: tuple[float, ...] | NDArray[np.float64]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(_fixed(value) for value in values))


def _fixed(value: float) -> int:
    return round(value * 65536)
