"""The Parquet files of a shard's attempt: written all or none, read under today's names."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from pipeline.run import markers
from pipeline.run.tables import old_versions
from pipeline.storage import parquet
from pipeline.storage.folder import Folder
from schemas.errors import OutageError, OvsegError
from schemas.records import TABLE_NAMES, FileEntry, ShardDone, ShardRows, TableName
from schemas.tables import SCHEMA_VERSION, TABLES, to_table

ROW_GROUP = 4096


def write_tables(
    folder: Folder, shard: int, attempt: str, rows: ShardRows
) -> dict[TableName, FileEntry]:
    """Write the tables of an attempt, all or none."""
    files: dict[TableName, FileEntry] = {}
    try:
        for name in TABLE_NAMES:
            table = to_table(name, getattr(rows, name))
            data = parquet.write_table(table, ROW_GROUP)
            file_name = f"{name}/{shard:05d}-{attempt}.parquet"
            folder.atomic_write(file_name, data)
            files[name] = FileEntry(
                name=file_name,
                num_rows=table.num_rows,
                sha256=markers.bytes_sha256(data),
                size_bytes=len(data),
            )
    except OvsegError:
        discard(folder, files)
        raise
    return files


def discard(folder: Folder, files: Mapping[TableName, FileEntry]) -> None:
    """Remove the files of an attempt that does not count; what cannot be is an orphan."""
    for entry in files.values():
        with suppress(OutageError):
            folder.discard(entry.name)


def decoded_table(
    marker: ShardDone,
    name: TableName,
    data: bytes,
    values: Mapping[str, Any],
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return the rows in a file of a shard under today's names; what they say is not checked.

    Args:
        marker: of the shard.
        name: of the table.
        data: the file.
        values: of columns that an older version lacks, see `old_versions.with_new_columns`.
        columns: those to read; None: all.

    Raises:
        pyarrow.ArrowException, OSError, ValueError, KeyError: it holds no such table.
    """
    version, stored = marker.schema_version, columns
    is_old = version < SCHEMA_VERSION
    if is_old and columns is not None:
        stored = old_versions.stored_columns(name, list(columns), version)
    table = parquet.read_table(data, stored)
    if is_old:
        wished = list(columns) if columns else None
        table = old_versions.with_new_columns(name, table, version, values, wished)
    return table.select(list(columns or TABLES[name][0].names))
