"""The Parquet files of a shard's attempt: written all or none, read under today's names."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import pyarrow as pa

from pipeline.run import markers
from pipeline.run.tables import old_versions
from pipeline.storage import parquet
from pipeline.storage.folder import Folder
from schemas.errors import ConfigError, FeaturesError, OutageError, OvsegError
from schemas.records import TABLE_NAMES, FileEntry, ShardDone, ShardRows, TableName
from schemas.tables import SCHEMA_VERSION, TABLES, to_table

ROW_GROUP = 4096


FileName = TableName | Literal["features"]
ShardFiles = dict[FileName, FileEntry]


def write_files(folder: Folder, shard: int, attempt: str, rows: ShardRows) -> ShardFiles:
    """Write the tables of an attempt, and its features if it has some, all or none."""
    files: ShardFiles = {}
    features = ("features",) if rows.features else ()
    try:
        for name in (*TABLE_NAMES, *features):
            data = _content(name, rows)
            file_name = f"{name}/{shard:05d}-{attempt}.parquet"
            folder.atomic_write(file_name, data)
            files[name] = FileEntry(
                name=file_name,
                num_rows=len(getattr(rows, name)),
                sha256=markers.bytes_sha256(data),
                size_bytes=len(data),
            )
    except OvsegError:
        discard(folder, files)
        raise
    return files


def _content(name: FileName, rows: ShardRows) -> bytes:
    data = parquet.write_table(to_table(name, getattr(rows, name)), ROW_GROUP)
    if len(data) > markers.MAX_TABLE_BYTES:
        num_images = len(rows.images)
        raise ConfigError(
            f"the {name} of a shard of {num_images} images take {len(data):,} bytes, at most "
            f"{markers.MAX_TABLE_BYTES:,} can be: give a shard_size below {num_images}, in another "
            "output folder"
        )
    return data


def discard(folder: Folder, files: ShardFiles) -> None:
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


def read_features(folder: Folder, marker: ShardDone) -> pa.Table:
    """Return the stored features of a shard, its file compared with the marker; none: no rows.

    Raises:
        FeaturesError: the file is gone or damaged.
    """
    entry, schema = marker.features, TABLES["features"][0]
    if entry is None:
        return schema.empty_table()
    try:
        data = folder.read_bytes(entry.name, max(entry.size_bytes, 1))
        if markers.bytes_sha256(data) != entry.sha256:
            raise ValueError("its SHA-256 is not that of the done marker")
        table = parquet.read_table(data).cast(schema)
        _check_features(table, entry)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise FeaturesError(
            f"{folder.uri}/{entry.name}: the stored features are gone or damaged ({error}): delete "
            f"{markers.marker_path('done', marker.shard)} and give the command that made the run "
            "again, which computes them anew"
        ) from error
    return table


def _check_features(table: pa.Table, entry: FileEntry) -> None:
    """Check that there is one row for each image that the marker counts.

    Raises:
        ValueError: there are others.
    """
    ids = table["image_id"]
    if table.num_rows != entry.num_rows or len(ids.unique()) != table.num_rows:
        raise ValueError(
            f"it has {table.num_rows} rows of {len(ids.unique())} images, its marker says "
            f"{entry.num_rows}"
        )
    if ids.null_count or table["features"].null_count:
        raise ValueError("it has rows without image or features")
