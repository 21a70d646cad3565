"""The pages of a column of bytes in a Parquet file, unpacked within limits.

Only what columns of images and of their names have is read: texts and bytes that may be null, in
the encodings PLAIN, RLE_DICTIONARY and DELTA_LENGTH_BYTE_ARRAY. The format's names and numbers are
those of parquet-format (parquet.thrift and its page on encodings).
"""

import zlib
from array import array
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.collection.archives.shared.table_footer import TableError
from pipeline.storage import parquet
from pipeline.storage.parquet import Fields, number_in

MAX_PAGE_BYTES = 256 << 20
"""Of a page, packed or unpacked."""
MAX_PAGE_ROWS = 1 << 20
DICTIONARY = 2
_DATA, _DATA_V2 = 0, 3
"""Kinds of pages; pages of other kinds are passed over."""
_PLAIN, _PLAIN_DICTIONARY, _RLE, _DELTA_LENGTH, _RLE_DICTIONARY = 0, 2, 3, 6, 8
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_MOST_BITS = 32
_SAY_THEIR_SIZE = {"snappy", "zstd"}
_NUMBER_BYTES = 4


class PageTooLargeError(ValueError):
    """A page has more bytes or rows than are unpacked at once."""


class Values(NamedTuple):
    """Values of some rows: where each lies in what was unpacked, -1 for null."""

    content: memoryview
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]

    def at(self, row: int) -> bytes | None:
        """Return the value of a row, counted from 0; None: null."""
        begin, end = int(self.begins[row]), int(self.ends[row])
        return None if begin < 0 else bytes(self.content[begin:end])

    @property
    def held_bytes(self) -> int:
        """Memory that they take."""
        return self.content.nbytes + self.begins.nbytes + self.ends.nbytes


class Page(NamedTuple):
    """What a page's header says."""

    kind: int
    unpacked: int
    packed: int
    num_values: int
    encoding: int
    levels_bytes: int
    """Of a page of version 2: levels before its values, which are not packed."""
    is_packed: bool
    header_bytes: int

    @property
    def is_data(self) -> bool:
        """Whether it has rows."""
        return self.kind in (_DATA, _DATA_V2)

    @property
    def needs_dictionary(self) -> bool:
        """Whether its values stand in a page of their own."""
        return self.is_data and self.encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY)


def page_at(data: bytes) -> Page:
    """Return the header of a page.

    Args:
        data: from its first byte on.

    Raises:
        IndexError: it goes on after `data`.
        TableError: it is none.
    """
    try:
        header, length = parquet.structure(data)
        kind = number_in(header, 1)
        own: Fields = header.get({_DATA: 5, DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0), {})
        page = Page(
            kind,
            number_in(header, 2),
            number_in(header, 3),
            number_in(own, 1) if own else 0,
            number_in(own, 4 if kind == _DATA_V2 else 2) if own else 0,
            number_in(own, 5) + number_in(own, 6) if kind == _DATA_V2 else 0,
            own.get(7, True) is True if kind == _DATA_V2 else True,
            length,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(f"no page where one should be: {error!r}"[:200]) from error
    numbers = page.unpacked, page.packed, page.num_values, page.levels_bytes
    if min(numbers) < 0 or page.levels_bytes > min(page.unpacked, page.packed):
        raise TableError("a page with sizes that cannot be")
    return page


def check_size(page: Page) -> None:
    """Raise PageTooLargeError for a page that is not to be unpacked."""
    size = max(page.unpacked, page.packed)
    if size > MAX_PAGE_BYTES:
        raise PageTooLargeError(f"a page of {size:,} bytes, more than {MAX_PAGE_BYTES:,}")
    if page.num_values > MAX_PAGE_ROWS:
        raise PageTooLargeError(f"a page of {page.num_values:,} rows, more than {MAX_PAGE_ROWS:,}")


def values(
    page: Page, data: bytes, codec: int, most_level: int, dictionary: Values | None
) -> Values:
    """Return the values of a page, one for each row; of a dictionary all that it has.

    Args:
        page: its header.
        data: its content as in the file.
        codec: how it is packed.
        most_level: how many of the column and the structures around it may be null.
        dictionary: of the column in this row group; None: it has none.

    Raises:
        PageTooLargeError: it is not unpacked.
        TableError: it is damaged, or in an encoding that is not read.
    """
    check_size(page)
    if page.kind == DICTIONARY:
        if page.encoding not in (_PLAIN, _PLAIN_DICTIONARY):
            raise TableError(f"a dictionary in encoding {page.encoding}")
        return _plain(_unpacked(data, page.unpacked, codec), page.num_values)
    content, levels = _content(page, data, codec, most_level)
    is_there = np.ones(page.num_values, bool) if levels is None else levels == most_level
    num_there = int(is_there.sum())
    if page.encoding == _PLAIN:
        found = _plain(content, num_there)
    elif page.encoding == _DELTA_LENGTH:
        found = _delta_length(content, num_there)
    elif page.encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
        found = _of_dictionary(content, num_there, dictionary)
    else:
        raise TableError(
            f"encoding {page.encoding} is not read: write the table with PLAIN or a dictionary"
        )
    begins, ends = np.full((2, page.num_values), -1, np.int64)
    begins[is_there], ends[is_there] = found.begins, found.ends
    return Values(found.content, begins, ends)


def _content(
    page: Page, data: bytes, codec: int, most_level: int
) -> tuple[memoryview, NDArray[np.uint32] | None]:
    """Return the values of a page as they are stored, and the levels, which say what is null."""
    width = most_level.bit_length()
    if page.kind == _DATA_V2:
        levels, packed = data[: page.levels_bytes], data[page.levels_bytes :]
        size = page.unpacked - page.levels_bytes
        content = _unpacked(packed, size, codec if page.is_packed else 0)
    else:
        content, levels = _unpacked(data, page.unpacked, codec), b""
        if most_level:
            length = int.from_bytes(content[:_NUMBER_BYTES], "little")
            levels = bytes(content[_NUMBER_BYTES : _NUMBER_BYTES + length])
            content = content[_NUMBER_BYTES + length :]
    return content, _runs(memoryview(levels), width, page.num_values) if most_level else None


def _unpacked(data: bytes, size: int, codec: int) -> memoryview:
    """Return a content of a stated size.

    Raises:
        TableError: it has another size. pyarrow does not say so of all kinds, and leaves bytes of
            its memory where the content ends before.
    """
    if codec == 0 or not size:
        if len(data) < size:
            raise TableError("a page that ends before its values do")
        return memoryview(data)[:size]
    name = _CODECS.get(codec)
    if name is None:
        raise TableError(f"compression {codec} is not read: write it with Snappy, zstd or none")
    try:
        if name == "gzip":
            whole: Any = zlib.decompressobj(_GZIP_OR_ZLIB).decompress(data, size + 1)
            is_right = len(whole) == size
        else:
            whole = pa.Codec(name).decompress(data, size)
            is_right = name != "snappy" or _size_of_snappy(data) == size
            is_right = is_right and (name in _SAY_THEIR_SIZE or not _fits(name, data, size - 1))
    except (pa.ArrowException, OSError, zlib.error, ValueError) as error:
        raise TableError(f"a page that cannot be unpacked: {error}") from error
    if not is_right:
        raise TableError(f"a page that does not unpack to the {size:,} bytes that it says")
    return memoryview(whole).cast("B")  # a buffer of Arrow counts bytes from -128 on


def _fits(name: str, data: bytes, size: int) -> bool:
    try:
        pa.Codec(name).decompress(data, size)
    except (pa.ArrowException, OSError):
        return False
    return True


def _size_of_snappy(data: bytes) -> int:
    """Return the size that stands before a content, seven bits a byte."""
    size = 0
    for place, byte in enumerate(data[:5]):
        size |= (byte & 127) << 7 * place
        if byte < 128:
            break
    return size


def _plain(content: memoryview, count: int) -> Values:
    begins, ends = array("q"), array("q")
    end = 0
    for _ in range(count):
        begin = end + _NUMBER_BYTES
        end = begin + int.from_bytes(content[end:begin], "little")
        if end > len(content):
            raise TableError("a value that ends after its page")
        begins.append(begin)
        ends.append(end)
    return Values(content, np.array(begins, np.int64), np.array(ends, np.int64))


def _of_dictionary(content: memoryview, count: int, dictionary: Values | None) -> Values:
    width = content[0] if len(content) else 0
    if width > _MOST_BITS:
        raise TableError(f"numbers of {width} bits")
    numbers = _runs(content[1:], width, count)
    if dictionary is None or int(numbers.max(initial=0)) >= len(dictionary.begins):
        if count:
            raise TableError("a value that its dictionary does not have")
        return _plain(content, 0)
    return Values(dictionary.content, dictionary.begins[numbers], dictionary.ends[numbers])


def _runs(data: memoryview, width: int, count: int) -> NDArray[np.uint32]:
    """Return numbers of `width` bits in the format's hybrid of runs and packed bits."""
    found = np.zeros(count, np.uint32)
    place = done = 0
    while done < count:
        head, place = _varint(data, place)
        length = min((head >> 1) * 8 if head & 1 else head >> 1, count - done)
        if head & 1:
            num_bytes = (head >> 1) * width
            # The last one may be cut off after the numbers that it has.
            some = _bits(data[place : place + num_bytes], width, length)
        else:
            num_bytes = (width + 7) // 8
            value = int.from_bytes(data[place : place + num_bytes], "little")
            some = np.full(length, value & 0xFFFFFFFF, np.uint32)
        place += num_bytes
        if not length:
            raise TableError("a run of no numbers")
        found[done : done + length] = some
        done += length
    return found


def _bits(data: memoryview, width: int, count: int) -> NDArray[np.uint32]:
    """Return `count` numbers of `width` bits that stand side by side, from the lowest bit on."""
    num_bytes = (count * width + 7) // 8
    if len(data) < num_bytes:
        raise TableError("numbers that end after their page")
    bits = np.unpackbits(np.frombuffer(data[:num_bytes], np.uint8), bitorder="little")
    rows = bits[: count * width].reshape(count, width)
    found = np.zeros(count, np.uint32)
    for place in range(width):
        found |= rows[:, place].astype(np.uint32) << np.uint32(place)
    return found


def _delta_length(content: memoryview, count: int) -> Values:
    """Return values whose lengths stand before them (DELTA_BINARY_PACKED)."""
    lengths, place = _deltas(content, count)
    if min(lengths, default=0) < 0 or sum(lengths) > len(content) - place:
        raise TableError("a value that ends after its page")
    ends = place + np.cumsum(np.array(lengths, np.int64))
    return Values(content, ends - np.array(lengths, np.int64), ends)


def _deltas(content: memoryview, count: int) -> tuple[list[int], int]:
    """Return `count` numbers that are stored as differences, and where they end."""
    block_size, place = _varint(content, 0)
    num_parts, place = _varint(content, place)
    total, place = _varint(content, place)
    first, place = _varint(content, place)
    size, rest = divmod(block_size, num_parts or 1)
    if total != count or rest or not 0 < num_parts < len(content) or not 0 < size <= MAX_PAGE_ROWS:
        raise TableError("lengths of values that are damaged")
    steps = [_signed(first)]
    while len(steps) < count:
        least, place = _varint(content, place)
        widths = bytes(content[place : place + num_parts])
        place += num_parts
        for width in widths:
            if len(steps) >= count:
                break
            if width > _MOST_BITS:
                raise TableError(f"numbers of {width} bits")
            length = min(size, count - len(steps))
            some = _bits(content[place:], width, length)
            steps += [_signed(least) + step for step in some.tolist()]
            place += size * width // 8
    return list(accumulate(steps[:count])), place


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise TableError("a number that ends after its page")


def _signed(number: int) -> int:
    return (number >> 1) ^ -(number & 1)
