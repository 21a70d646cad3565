"""Chunks of a PNG: those that describe its pixels, and those that keep Pillow from showing it."""

import struct
import zlib
from collections.abc import Container, Iterator

_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
_SIZES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"acTL": 8}
"""Bytes of chunks whose length is fixed."""
_COLOR_TYPE = 25
"""Place of the header's byte that tells grey (0), RGB (2) and others."""
_TRANSPARENCY_SIZES = {0: 2, 2: 6}
"""Bytes of tRNS, by that byte."""
_MOST_BYTES = 1 << 20
"""Of a profile; Pillow refuses to unpack more."""


def chunks_before_pixels(data: bytes, kinds: Container[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the sound chunks of some kinds that come before the pixels.

    Browsers read no others: what comes behind the pixels does not turn or colour them.
    """
    for kind, place, end in _chunks(data):
        if kind == b"IDAT":
            return
        if kind in kinds and _has_checksum(data[place:end]):
            yield kind, data[place + 8 : end - 4]


def without_damage(data: bytes) -> bytes:
    """Return a PNG without what describes it and is damaged, or is refused by Pillow.

    These are its texts, chunks with a wrong checksum or length, and profiles that are too long or
    cannot be unpacked. Browsers show such a file; what its pixels need is left as it is.
    """
    color_type = data[_COLOR_TYPE] if len(data) > _COLOR_TYPE else 0
    parts = [data[:8]]
    for kind, place, end in _chunks(data):
        is_needed = kind[:1].isupper()
        if is_needed or not (kind in _TEXTS or _is_damaged(kind, data[place:end], color_type)):
            parts.append(data[place:end])
    return b"".join(parts)


def without_chunks(data: bytes, kinds: Container[bytes]) -> bytes:
    """Return a PNG without its chunks of some kinds."""
    kept = (data[place:end] for kind, place, end in _chunks(data) if kind not in kinds)
    return data[:8] + b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, first byte and end of each chunk; the last end may lie behind a cut file's."""
    place = 8
    while place + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        yield kind, place, place + 12 + size
        place += 12 + size


def _is_damaged(kind: bytes, chunk: bytes, color_type: int) -> bool:
    content = chunk[8:-4]
    if not _has_checksum(chunk):
        return True
    if kind == b"iCCP":
        return not _unpacks(content)
    size = _TRANSPARENCY_SIZES.get(color_type) if kind == b"tRNS" else _SIZES.get(kind)
    return len(content) != size if size else kind == b"tRNS" and not content


def _has_checksum(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _unpacks(profile: bytes) -> bool:
    """Return whether Pillow unpacks the content of iCCP: a name, 0, the method 0, the profile."""
    name, end, packed = profile.partition(b"\0\0")
    try:
        unpacked = zlib.decompressobj().decompress(packed, _MOST_BYTES + 1)
    except zlib.error:
        return False
    return bool(name and end) and len(unpacked) <= _MOST_BYTES
