"""Parquet files as bytes: a file is built whole in memory before it is written."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

pc: Any = pyarrow.compute  # made at run time: unknown to type checkers

ROW_GROUP = 65536
"""Rows in a group, where a table is small or read whole."""

_FREE_BYTES, _MAX_FIXED_BYTES = 64 << 20, 1 << 30
_MAX_RATIO, _RATIO = 200, 20
"""A file may unpack to 64 MiB; to 200 times its size up to 1 GiB; and to 20 times its size."""
_MAX_FOOTER_BYTES = 4 << 20
_BOUNDED = {"UNCOMPRESSED", "SNAPPY", "GZIP", "LZ4", "LZ4_RAW", "ZSTD"}
"""Compressions by which a file grows by 32,768 times at most: Zstandard's blocks of 128 KiB."""
_FEW_BYTES = _FREE_BYTES >> 15
_BATCH_ROWS = 1 << 16
"""Rows that are unpacked before their bytes are counted."""
_REPEATING = {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}
"""Encodings by which few bytes stand for many texts."""

# Thrift's compact protocol, in which the headers of pages are written; pyarrow shows none of them.
_BOOLEANS, _INTEGERS, _LISTS = (1, 2), (4, 5, 6), (9, 10)
_TEXT, _STRUCT, _LONG_LIST = 8, 12, 15
_SIZES = {**dict.fromkeys(_BOOLEANS, 0), 3: 1, 7: 8}
"""Bytes of a Boolean of a structure, whose kind is its value, of a byte and of a number."""
_MAX_DEPTH = 8
_MAX_HEADERS = 1 << 20
"""Bytes of the headers of a column's pages together."""
_UNPACKED, _PACKED = 2, 3
"""Fields of a page's header, bytes; the page itself follows the header."""


def write_table(table: pa.Table, row_group: int = ROW_GROUP) -> bytes:
    """Return the table as the content of a Parquet file; equal tables give equal bytes.

    Args:
        table: any.
        row_group: rows that are compressed together.
    """
    dictionaries: Any = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=3,
        row_group_size=row_group,
        use_dictionary=dictionaries,
    )
    return buffer.getvalue()


def read_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file, or some of its columns; anybody may have written it.

    Raises:
        pyarrow.ArrowInvalid, OSError: the bytes are not a sound Parquet file, or it would unpack to
            more than the limits above.
    """
    # Not pq.read_table: its scanner's threads now and then abort the process at exit
    # (apache/arrow issues 34314 and 50482), and our exit code is part of the interface.
    file = _open(data)
    wanted = list(columns) if columns is not None else list(file.schema_arrow.names)
    most = max(_MAX_FIXED_BYTES, _RATIO * len(data))
    packed_texts = _check_sizes(file, data, wanted)
    if packed_texts:
        file = _open(data, packed_texts)
    parts, size, of_texts = [], 0, 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
        size += batch.nbytes
        if size > 2 * most:
            raise pa.ArrowInvalid(f"it unpacks to more than {2 * most:,} bytes")
        part = pa.Table.from_batches([batch])
        of_texts += _check_texts(part, most, of_texts)
        parts.append(_unpacked(part, packed_texts))
    if not parts:  # no rows
        return _unpacked(file.read(columns=wanted, use_threads=False), packed_texts)
    return pa.concat_tables(parts) if len(parts) > 1 else parts[0]


def _open(data: bytes, packed_texts: Sequence[str] = ()) -> pq.ParquetFile:
    if len(data) >= 8 and int.from_bytes(data[-8:-4], "little") > _MAX_FOOTER_BYTES:
        raise pa.ArrowInvalid(f"its list of columns has more than {_MAX_FOOTER_BYTES:,} bytes")
    return pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(packed_texts))


def _check_sizes(file: pq.ParquetFile, data: bytes, wanted: Sequence[str]) -> list[str]:
    """Check what a file says of its size; return the text columns that hold repeated texts."""
    metadata, schema, size = file.metadata, file.schema_arrow, len(data)
    texts = {
        name
        for name in wanted
        if schema.get_field_index(name) >= 0 and _is_text(schema.field(name).type)
    }
    chosen = set(wanted)
    names = [metadata.schema.column(n).path.partition(".")[0] for n in range(metadata.num_columns)]
    places = [place for place, name in enumerate(names) if name in chosen]
    unpacked, rows, packed_texts, chunks = 0, 0, set(), []
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        rows += row_group.num_rows
        for place in places:
            column = row_group.column(place)
            unpacked += column.total_uncompressed_size
            chunks.append((column.total_compressed_size, column))
            if names[place] in texts and _REPEATING.intersection(column.encodings):
                packed_texts.add(names[place])
    most = max(_FREE_BYTES, min(_MAX_RATIO * size, _MAX_FIXED_BYTES), _RATIO * size)
    fixed = 4 * max(rows, metadata.num_rows) * len(wanted)
    if unpacked <= most and fixed <= max(_MAX_FIXED_BYTES, _RATIO * size):
        unpacked, fixed = _bytes_of_pages(data, chunks), 0
    if unpacked > most or fixed:
        raise pa.ArrowInvalid(
            f"a file of {size:,} bytes that unpacks to {max(unpacked, fixed):,} or more, with "
            f"{max(rows, metadata.num_rows):,} rows: expected at most {most:,} bytes"
        )
    return sorted(packed_texts)


def _bytes_of_pages(data: bytes, chunks: list[tuple[int, Any]]) -> int:
    """Return what columns unpack to by the headers of their pages, which also bound the reader.

    The list of columns at the end of a file may lie. Columns of so few bytes that they cannot
    unpack to much are not looked at.

    Args:
        data: the file.
        chunks: of each column and row group, the bytes that it has in the file, and what the
            list of columns says of it.
    """
    chunks.sort(key=lambda chunk: chunk[0])
    total, passed = 0, 0
    for size, column in chunks:
        if size < 0:
            raise pa.ArrowInvalid(f"a column has {size:,} bytes")
        if column.compression in _BOUNDED and passed + size <= _FEW_BYTES:
            passed += size
            continue
        first = column.data_page_offset
        if column.has_dictionary_page and 0 < column.dictionary_page_offset < first:
            first = column.dictionary_page_offset
        total += unpacked_bytes(data, first, first + size)
    return total


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)


def _is_packed(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) and _is_text(kind.value_type)


def _check_texts(part: pa.Table, most: int, before: int) -> int:
    """Return how many bytes the repeated texts of some rows have when they are written out.

    Columns of the schema's own kind count too: whoever reads them may write them out.

    Raises:
        pyarrow.ArrowInvalid: more than there may be, with those `before`.
    """
    total = 0
    for place, field in enumerate(part.schema):
        if not _is_packed(field.type):
            continue
        for chunk in part.column(place).chunks:
            simple_bound = chunk.dictionary.nbytes * len(chunk)
            if not before and simple_bound <= _FREE_BYTES:
                total += simple_bound
                continue
            lengths = pc.binary_length(chunk.dictionary).to_numpy(zero_copy_only=False)
            indices = chunk.indices.drop_null().to_numpy()
            total += int(np.nan_to_num(lengths)[indices].sum()) if len(indices) else 0
        if total > most or before + total > 2 * most:
            raise pa.ArrowInvalid(f"texts of {field.name[:80]!r} unpack to {total:,} bytes or more")
    return total


def _unpacked(part: pa.Table, packed_texts: Sequence[str]) -> pa.Table:
    """Return rows with repeated texts written out."""
    for name in packed_texts:
        place = part.schema.get_field_index(name)
        if _is_packed(part.schema.field(place).type):
            value_type = part.schema.field(place).type.value_type
            column = part.column(place).cast(value_type)
            part = part.set_column(place, pa.field(name, value_type), column)
    return part


def column_names(data: bytes) -> list[str]:
    """Return the names of a Parquet file's columns."""
    return _open(data).schema_arrow.names


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
