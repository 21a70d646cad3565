"""Parts of a PNG that can keep Pillow from showing it."""

import zlib
from collections.abc import Container

_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
_MOST_BYTES = 1 << 20
"""Of a profile; Pillow refuses to unpack more."""


def without_texts(data: bytes) -> bytes:
    """Return a PNG without its texts, and without a profile that Pillow refuses to unpack.

    Browsers show such a file whatever its texts hold, also with a wrong checksum.
    """
    return without_chunks(data, _TEXTS, are_long_profiles_dropped=True)


def without_chunks(
    data: bytes, kinds: Container[bytes], *, are_long_profiles_dropped: bool = False
) -> bytes:
    """Return a PNG without its chunks of some kinds."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        is_long = (
            are_long_profiles_dropped
            and kind == b"iCCP"
            and _unpacks_to_more(data[place + 8 : end - 4])
        )
        if kind not in kinds and not is_long:
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def _unpacks_to_more(profile: bytes) -> bool:
    packed = profile.partition(b"\0")[2][1:]
    try:
        return len(zlib.decompressobj().decompress(packed, _MOST_BYTES + 1)) > _MOST_BYTES
    except zlib.error:
        return True
