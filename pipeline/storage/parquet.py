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
_REPEATING = {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "DELTA_BYTE_ARRAY"}
"""Encodings by which few bytes stand for many texts."""


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
    packed_texts = _check_sizes(file, len(data), wanted)
    if packed_texts:
        file = _open(data, packed_texts)
    if file.num_row_groups < 2:
        return _unpacked(file.read(columns=wanted, use_threads=False), packed_texts, most)
    groups, size = [], 0
    for place in range(file.num_row_groups):
        group = file.read_row_group(place, columns=wanted, use_threads=False)
        size += group.nbytes
        if size > 2 * most:
            raise pa.ArrowInvalid(f"it unpacks to more than {2 * most:,} bytes")
        groups.append(_unpacked(group, packed_texts, most))
    return pa.concat_tables(groups)


def _open(data: bytes, packed_texts: Sequence[str] = ()) -> pq.ParquetFile:
    if len(data) >= 8 and int.from_bytes(data[-8:-4], "little") > _MAX_FOOTER_BYTES:
        raise pa.ArrowInvalid(f"its list of columns has more than {_MAX_FOOTER_BYTES:,} bytes")
    return pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(packed_texts))


def _check_sizes(file: pq.ParquetFile, size: int, wanted: Sequence[str]) -> list[str]:
    """Check what a file says of its size; return the text columns that hold repeated texts."""
    metadata, schema = file.metadata, file.schema_arrow
    fixed = 4 * metadata.num_rows * len(wanted)
    texts = {
        name
        for name in wanted
        if schema.get_field_index(name) >= 0 and _is_text(schema.field(name).type)
    }
    names = [metadata.schema.column(n).path.partition(".")[0] for n in range(metadata.num_columns)]
    places = [place for place, name in enumerate(names) if name in set(wanted)]
    unpacked, packed_texts = 0, set()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for place in places:
            column = row_group.column(place)
            unpacked += column.total_uncompressed_size
            if names[place] in texts and _REPEATING.intersection(column.encodings):
                packed_texts.add(names[place])
    most = max(_FREE_BYTES, min(_MAX_RATIO * size, _MAX_FIXED_BYTES), _RATIO * size)
    if unpacked > most or fixed > max(_MAX_FIXED_BYTES, _RATIO * size):
        raise pa.ArrowInvalid(
            f"a file of {size:,} bytes that unpacks to {max(unpacked, fixed):,} or more, with "
            f"{metadata.num_rows:,} rows: expected at most {most:,} bytes"
        )
    return sorted(packed_texts)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)


def _unpacked(group: pa.Table, packed_texts: Sequence[str], most: int) -> pa.Table:
    """Return a row group with repeated texts written out, if they are not too long together."""
    for field in group.schema:
        # Columns of the schema's own kind count too: whoever reads them may write them out.
        if not (pa.types.is_dictionary(field.type) and _is_text(field.type.value_type)):
            continue
        column, length = group.column(field.name), 0
        for chunk in column.chunks:
            lengths = pc.binary_length(chunk.dictionary).to_numpy(zero_copy_only=False)
            indices = chunk.indices.drop_null().to_numpy()
            length += int(np.nan_to_num(lengths)[indices].sum()) if len(indices) else 0
        if length > most:
            raise pa.ArrowInvalid(f"texts of {field.name[:80]!r} unpack to {length:,} bytes")
        if field.name in packed_texts:
            value_type = field.type.value_type
            place = group.schema.get_field_index(field.name)
            group = group.set_column(
                place, pa.field(field.name, value_type), column.cast(value_type)
            )
    return group


def column_names(data: bytes) -> list[str]:
    """Return the names of a Parquet file's columns."""
    return _open(data).schema_arrow.names
