"""The headers of a Parquet file's pages: what each says that it unpacks to.

The reader takes memory by these numbers before it unpacks a page, and unpacks no more than they
say. They are structures of Thrift's compact protocol, of which pyarrow shows none.
"""

import pyarrow as pa

_BOOLEANS, _INTEGERS, _LISTS = (1, 2), (4, 5, 6), (9, 10)
_TEXT, _STRUCT, _LONG_LIST = 8, 12, 15
_SIZES = {**dict.fromkeys(_BOOLEANS, 0), 3: 1, 7: 8}
"""Bytes of a Boolean of a structure, whose kind is its value, of a byte and of a number."""
_MAX_DEPTH = 8
_MAX_HEADERS = 1 << 20
"""Bytes of the headers of a column's pages together."""
_UNPACKED, _PACKED = 2, 3
"""Fields of a page's header, bytes; the page itself follows the header."""


def unpacked_bytes(data: bytes, begin: int, end: int) -> int:
    """Return the bytes to which the pages of a column unpack.

    Args:
        data: the whole file.
        begin: where the column's first page begins.
        end: where its last page ends.

    Raises:
        pyarrow.ArrowInvalid: there is no page where one should be.
    """
    if not 0 <= begin <= end <= len(data):
        raise pa.ArrowInvalid(f"a column lies at bytes {begin:,} to {end:,} of {len(data):,}")
    total, place, left = 0, begin, _MAX_HEADERS
    content = memoryview(data)
    while place < end:
        try:
            sizes, length = _header(content[place : min(place + left, end)], 0)
        except (IndexError, ValueError) as error:
            raise pa.ArrowInvalid(f"no page of a column at byte {place:,}") from error
        unpacked, packed = sizes.get(_UNPACKED, -1), sizes.get(_PACKED, -1)
        if min(unpacked, packed) < 0:
            raise pa.ArrowInvalid(f"the page at byte {place:,} has no size")
        total += unpacked
        place += length + packed
        left -= length
    return total


def _header(data: memoryview, place: int) -> tuple[dict[int, int], int]:
    """Return a structure's integers by field, and where it ends."""
    numbers: dict[int, int] = {}
    field = 0
    while data[place]:
        kind, step = data[place] & 15, data[place] >> 4
        place += 1
        if step:
            field += step
        else:
            field, place = _integer(data, place)
        if kind in _INTEGERS:
            numbers[field], place = _integer(data, place)
        else:
            place = _end(data, place, kind, _MAX_DEPTH)
    return numbers, place + 1


def _integer(data: memoryview, place: int) -> tuple[int, int]:
    value, shift = data[place] & 127, 7
    while data[place] > 127:
        place += 1
        value |= (data[place] & 127) << shift
        shift += 7
        if shift > 70:
            raise ValueError("expected an integer of 64 bits")
    return (value >> 1) ^ -(value & 1), place + 1


def _end(data: memoryview, place: int, kind: int, depth: int) -> int:
    """Return where a value ends that begins at a place."""
    if kind in _INTEGERS:
        return _integer(data, place)[1]
    if kind in _SIZES:
        return place + _SIZES[kind]
    if kind == _TEXT:
        length, place = _length(data, place)
        return place + length
    if not depth or kind not in (*_LISTS, _STRUCT):
        raise ValueError("expected a page's header")
    return (_end_of_struct if kind == _STRUCT else _end_of_list)(data, place, depth - 1)


def _end_of_struct(data: memoryview, place: int, depth: int) -> int:
    while data[place]:
        kind, step = data[place] & 15, data[place] >> 4
        place = place + 1 if step else _integer(data, place + 1)[1]
        place = _end(data, place, kind, depth)
    return place + 1


def _end_of_list(data: memoryview, place: int, depth: int) -> int:
    kind, length = data[place] & 15, data[place] >> 4
    place += 1
    if length == _LONG_LIST:
        length, place = _length(data, place)
    for _ in range(length):
        place = place + 1 if kind in _BOOLEANS else _end(data, place, kind, depth)
        _ = data[place]  # what has no end is an error at the file's end
    return place


def _length(data: memoryview, place: int) -> tuple[int, int]:
    """Return a length, which is no signed number, and where it ends."""
    value, end = _integer(data, place)
    return (value << 1) ^ (value >> 63), end
