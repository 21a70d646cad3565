"""Parquet files as bytes: a file is built whole in memory before it is written."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 65536
"""Rows in a group, where a table is small or read whole."""


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
    """Return the table of a Parquet file, or some of its columns.

    Raises:
        pyarrow.ArrowInvalid, OSError: the bytes are not a sound Parquet file.
    """
    # Not pq.read_table: its scanner's threads now and then abort the process at exit
    # (apache/arrow issues 34314 and 50482), and our exit code is part of the interface.
    file = pq.ParquetFile(pa.BufferReader(data))
    return file.read(columns=None if columns is None else list(columns), use_threads=False)


def column_names(data: bytes) -> list[str]:
    """Return the names of a Parquet file's columns."""
    return pq.read_schema(pa.BufferReader(data)).names
