"""Parquet files as bytes: a file is built whole in memory before it is written."""

import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

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
_BOUNDED = {0, 1, 2, 5, 6, 7}
"""Compressions by which a file grows by 32,768 times at most: none, Snappy, gzip, both LZ4, and
Zstandard with its blocks of 128 KiB."""
_FEW_BYTES = _FREE_BYTES >> 15
_BATCH_ROWS = 1 << 16
"""Rows that are unpacked before their bytes are counted."""
_REPEATING = {2, 7, 8}
"""Encodings by which few bytes stand for many texts: PLAIN_DICTIONARY, DELTA_BYTE_ARRAY,
RLE_DICTIONARY."""

# Thrift's compact protocol, in which the list of columns and the headers of pages are written.
# pyarrow shows no headers, and its list of columns ends the process where a value is not as it
# should be: an exception of C++ that reaches no Python.
_TRUE, _BYTE, _DOUBLE, _TEXT, _STRUCT = 1, 3, 7, 8, 12
_INTEGERS, _LISTS = (4, 5, 6), (9, 10)
_LONG_LIST = 15
_MAX_DEPTH = 8
_MAX_HEADERS = 1 << 20
"""Bytes of the headers of a column's pages together."""
_UNPACKED, _PACKED = 2, 3
"""Fields of a page's header, bytes; the page itself follows the header."""

Fields = dict[int, Any]
"""A Thrift structure: integers, bytes, lists and structures by their field's number."""


class ColumnChunk(NamedTuple):
    """What the list of columns says of one column in one row group, all in bytes."""

    encodings: frozenset[int]
    compression: int
    unpacked: int
    packed: int
    first_page: int


def write_table(table: pa.Table, row_group: int = ROW_GROUP) -> bytes:
    """Return the table as the content of a Parquet file; equal tables give equal bytes.

    Args:
        table: any.
        row_group: rows that are compressed together.
    """
    buffer = io.BytesIO()
    with _writer(buffer, table.schema) as writer:
        writer.write_table(table, row_group)
    return buffer.getvalue()


def write_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> bytes:
    """Return rows that are not in memory at once as `write_table` returns their table.

    Args:
        batches: of `ROW_GROUP` rows each, but the last.
        schema: of the rows.
    """
    buffer = io.BytesIO()
    with _writer(buffer, schema) as writer:
        for batch in batches:
            writer.write_batch(batch, ROW_GROUP)
    return buffer.getvalue()


def _writer(buffer: io.BytesIO, schema: pa.Schema) -> pq.ParquetWriter:
    dictionaries: Any = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    return pq.ParquetWriter(
        buffer, schema, compression="zstd", compression_level=3, use_dictionary=dictionaries
    )


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
    unpacked, packed_texts, chunks = 0, set(), []
    rows, groups = _row_groups(data)
    for group in groups:
        if len(group) != len(names):
            raise pa.ArrowInvalid(f"{len(group)} columns of rows, but {len(names)} in its schema")
        for name, chunk in zip(names, group, strict=True):
            if name in chosen:
                unpacked += chunk.unpacked
                chunks.append(chunk)
                if name in texts and _REPEATING & chunk.encodings:
                    packed_texts.add(name)
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


def _row_groups(data: bytes) -> tuple[int, list[list[ColumnChunk]]]:
    """Return the rows and the columns of the row groups, from the list at a file's end.

    Raises:
        pyarrow.ArrowInvalid: it is not as Parquet's format says.
    """
    length = int.from_bytes(data[-8:-4], "little")
    try:
        # Fields of FileMetaData, RowGroup, ColumnChunk: parquet-format, src/main/thrift.
        fields, _ = structure(data[-8 - length : -8])
        groups = fields.get(4, [])
        rows = sum(number_in(group, 3) for group in groups)
        return rows, [[column_chunk(column[3]) for column in group[1]] for group in groups]
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise pa.ArrowInvalid(f"its list of columns is damaged: {error}") from error


def column_chunk(column: Fields) -> ColumnChunk:
    """Return what is needed of Parquet's ColumnMetaData.

    Raises:
        KeyError, TypeError, ValueError: it is not as Parquet's format says.
    """
    first = number_in(column, 9)
    dictionary = number_in(column, 11) if 11 in column else 0
    return ColumnChunk(
        encodings=frozenset(column[2]),
        compression=number_in(column, 4),
        unpacked=number_in(column, 6),
        packed=number_in(column, 7),
        first_page=dictionary if 0 < dictionary < first else first,
    )


def number_in(fields: Fields, field: int) -> int:
    """Return a number of a Thrift structure.

    Raises:
        KeyError, ValueError: it has none.
    """
    value = fields[field]
    if type(value) is not int:
        raise ValueError(f"field {field} is no number")
    return value


def _bytes_of_pages(data: bytes, chunks: list[ColumnChunk]) -> int:
    """Return what columns unpack to by the headers of their pages, which also bound the reader.

    The list of columns at the end of a file may lie. Columns of so few bytes that they cannot
    unpack to much are not looked at.
    """
    chunks.sort(key=lambda chunk: chunk.packed)
    total, passed = 0, 0
    for chunk in chunks:
        if chunk.packed < 0:
            raise pa.ArrowInvalid(f"a column has {chunk.packed:,} bytes")
        if chunk.compression in _BOUNDED and passed + chunk.packed <= _FEW_BYTES:
            passed += chunk.packed
            continue
        total += unpacked_bytes(data, chunk.first_page, chunk.first_page + chunk.packed)
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
    while place < end:
        try:
            sizes, length = structure(data[place : min(place + left, end)])
            unpacked, packed = number_in(sizes, _UNPACKED), number_in(sizes, _PACKED)
        except (IndexError, KeyError, ValueError) as error:
            raise pa.ArrowInvalid(f"no page of a column at byte {place:,}") from error
        if min(unpacked, packed) < 0:
            raise pa.ArrowInvalid(f"the page at byte {place:,} has no size")
        total += unpacked
        place += length + packed
        left -= length
    return total


def structure(data: bytes, place: int = 0, depth: int = _MAX_DEPTH) -> tuple[Fields, int]:
    """Return a Thrift structure, and where it ends.

    Args:
        data: that it is in; anybody may have written it.
        place: of its first byte.
        depth: of the structures in it, at most.

    Raises:
        IndexError, ValueError: it is none, or has no end.
    """
    if not depth:
        raise ValueError("structures in structures, too deep")
    fields: Fields = {}
    field = 0
    while head := data[place]:
        kind, step, place = head & 15, head >> 4, place + 1
        if step:
            field += step
        else:
            field, place = _integer(data, place)
        if kind in _INTEGERS:
            number = data[place]
            if number < 128:  # nearly all: a file has a thousand of them
                fields[field], place = (number >> 1) ^ -(number & 1), place + 1
            else:
                fields[field], place = _integer(data, place)
        elif kind == _TEXT and data[place] < 128:
            end = place + 1 + data[place]
            fields[field], place = data[place + 1 : end], end
        elif kind <= _TRUE + 1:  # a Boolean's kind is its value
            fields[field] = kind == _TRUE
        else:
            fields[field], place = _value(data, place, kind, depth)
    return fields, place + 1


def _value(data: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    """Return a value of a kind, and where it ends; of a double, which is not needed, its bytes."""
    if kind in _INTEGERS:
        return _integer(data, place)
    if kind in (_BYTE, _DOUBLE):
        end = place + (1 if kind == _BYTE else 8)
        return data[place:end], end
    if kind == _TEXT:
        length, place = _length(data, place)
        return data[place : place + length], place + length
    if kind == _STRUCT:
        return structure(data, place, depth - 1)
    if kind in _LISTS:
        return _list(data, place, depth)
    raise ValueError(f"a value of kind {kind}")


def _list(data: bytes, place: int, depth: int) -> tuple[list[Any], int]:
    """Return a list, and where it ends."""
    kind, length, place = data[place] & 15, data[place] >> 4, place + 1
    if length == _LONG_LIST:
        length, place = _length(data, place)
    if length > len(data) - place:
        raise ValueError("a list that is longer than the file")
    values: list[Any] = []
    for _ in range(length):
        if kind == _STRUCT:
            value, place = structure(data, place, depth - 1)
        elif kind in _INTEGERS:
            value, place = _integer(data, place)
        elif kind <= _TRUE + 1:
            value, place = data[place] == _TRUE, place + 1
        else:
            value, place = _value(data, place, kind, depth - 1)
        values.append(value)
    return values, place


def _integer(data: bytes, place: int) -> tuple[int, int]:
    value, shift = data[place] & 127, 7
    while data[place] > 127:
        place += 1
        value |= (data[place] & 127) << shift
        shift += 7
        if shift > 70:
            raise ValueError("expected an integer of 64 bits")
    return (value >> 1) ^ -(value & 1), place + 1


def _length(data: bytes, place: int) -> tuple[int, int]:
    """Return a length, which is no signed number, and where it ends."""
    value, end = _integer(data, place)
    return (value << 1) ^ (value >> 63), end
