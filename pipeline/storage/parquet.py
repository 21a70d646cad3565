"""Parquet in memory. Built whole before it is written: a half-written file cannot come to be."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def encode(table: pa.Table, row_group: int) -> bytes:
    """Return the table as a Parquet file; the same table always gives the same bytes."""
    words: Any = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=3,
        row_group_size=row_group,
        use_dictionary=words,
    )
    return buffer.getvalue()


def decode(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file, or some of its columns.

    Raises:
        pyarrow.ArrowInvalid, OSError: if the bytes are no sound Parquet file.
    """
    # Not pq.read_table: its scanner's threads now and then abort the process at exit
    # (apache/arrow issues 34314 and 50482), and our exit code is part of the interface.
    file = pq.ParquetFile(pa.BufferReader(data))
    return file.read(columns=None if columns is None else list(columns), use_threads=False)


def column_names(data: bytes) -> list[str]:
    """Return the names of a Parquet file's columns."""
    return pq.read_schema(pa.BufferReader(data)).names
