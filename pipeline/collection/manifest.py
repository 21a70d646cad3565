"""A frozen list of images, rows of it in little memory, and the shards of a run.

A manifest is an Arrow table; records of one shard are made when that shard is asked for, so that
ten million images never exist as Python objects at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from pipeline.storage import parquet
from schemas.errors import RunFolderError
from schemas.records import Shard
from schemas.tables import MANIFEST, to_array, to_records
from schemas.untrusted import first_not_relative

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers
ROWS_AT_ONCE = 65536
"""Of a list of images: so many are unpacked and worked on together."""
_SOURCE_KEY = b"ovseg.source"
_COCO_IDS_KEY = b"ovseg.coco_ids"
_COCO_IDS = TypeAdapter(dict[str, int])


class PackedRows:
    """Rows of a table, packed block by block: a fifth of the memory.

    Args:
        schema: of the rows.

    Attributes:
        schema: likewise.
        num_rows: so far.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.num_rows = 0
        self._blocks: list[pa.Buffer] = []

    @classmethod
    def of(cls, table: pa.Table) -> "PackedRows":
        """Return a table's rows."""
        rows = cls(table.schema)
        for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
            rows.add(batch)
        return rows

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows behind the others."""
        sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, self.schema, options=options) as writer:
            writer.write_batch(batch)
        written = sink.getvalue()
        block = pa.allocate_buffer(written.size)  # the sink's own buffer is up to twice as long
        pa.FixedSizeBufferWriter(block).write(written)
        self._blocks.append(block)
        self.num_rows += batch.num_rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in their order."""
        for block in self._blocks:
            yield from pa.ipc.open_stream(block)

    def table(self) -> pa.Table:
        """Return all rows, unpacked."""
        return self._as_table(self.batches())

    def release(self) -> pa.Table:
        """Return all rows, unpacked, and keep none: each block is let go for its rows."""
        blocks, self._blocks, self.num_rows = self._blocks[::-1], [], 0
        batches = [batch for _ in blocks[:] for batch in pa.ipc.open_stream(blocks.pop())]
        return self._as_table(batches)

    def _as_table(self, batches: Iterable[pa.RecordBatch]) -> pa.Table:
        table = pa.Table.from_batches(batches, self.schema)
        return table.replace_schema_metadata(self.schema.metadata)


def write_manifest(images: pa.Table | PackedRows, source: str = "") -> bytes:
    """Return the manifest as a Parquet file; the same rows always give the same bytes.

    Args:
        images: rows of the manifest's schema, in their final order.
        source: what the list was made from; kept in the file, see `source_of`.
    """
    if isinstance(images, PackedRows):
        schema = _with_source(images.schema, source)
        return parquet.write_batches((batch.cast(schema) for batch in images.batches()), schema)
    return parquet.write_table(with_source(images, source))


def with_source(images: pa.Table | PackedRows, source: str) -> pa.Table:
    """Return a manifest as `read_manifest` returns it, see `source_of`; releases packed rows."""
    table = images.release() if isinstance(images, PackedRows) else images
    return table.cast(_with_source(table.schema, source))


def _with_source(schema: pa.Schema, source: str) -> pa.Schema:
    return MANIFEST.with_metadata({**(schema.metadata or {}), _SOURCE_KEY: source.encode()})


def read_manifest(data: bytes, name: str = "manifest.parquet") -> pa.Table:
    """Return the table of a frozen manifest.

    Args:
        data: the file.
        name: of the file, for messages.

    Raises:
        RunFolderError: the bytes are not a manifest, or its rows cannot be ovseg's: a path that
            leaves the collection's folder, an id or path twice.
    """
    try:
        read = parquet.read_table(data)
        table = read.cast(MANIFEST.with_metadata(read.schema.metadata))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise RunFolderError(f"{name} cannot be read: {error}") from error
    _check(table, name)
    return table


def _check(table: pa.Table, file: str) -> None:
    """Check what a person who shares a run folder could have written into the columns."""
    for name in ("image_id", "path"):
        if has_repeats(table.column(name)):
            num_different = len(table.column(name).unique())
            raise RunFolderError(
                f"{file}: {table.num_rows - num_different:,} rows repeat the {name} of "
                "another: expected each once"
            )
    path = first_not_relative(table.column("path"))
    if path is not None:
        raise RunFolderError(
            f"{file}: the path {path!r} leaves the collection's folder; "
            "nothing of this run is read. Whoever made it can list the images again"
        )


def joined_texts(*parts: str | pa.Array) -> pa.Array:
    """Return texts put together row by row; a single text stands in all rows.

    Arrow takes Python's texts as well, and imports pandas for them, see `to_array`.
    """
    as_arrow = [
        to_array([part], pa.string())[0] if isinstance(part, str) else part for part in (*parts, "")
    ]
    return compute.binary_join_element_wise(*as_arrow)


def ascends(texts: pa.ChunkedArray) -> bool:
    """Return whether each text of a column comes after the one before, by code points."""
    is_after = compute.greater(texts.slice(1), texts.slice(0, max(0, len(texts) - 1)))
    return bool(compute.all(is_after, min_count=0).as_py())


def has_repeats(texts: pa.ChunkedArray) -> bool:
    """Return whether a column has a text twice; of ascending texts and of ids known at once."""
    if ascends(texts):
        return False
    hashes = _hashes_of_ids(texts)
    if hashes is not None:
        hashes.sort()
        if (hashes[1:] != hashes[:-1]).all():
            return False
    return len(texts.unique()) < len(texts)


def _hashes_of_ids(texts: pa.ChunkedArray) -> NDArray[np.uint64] | None:
    """Return a hash of each text; None: not all have 16 bytes."""
    hashes, done = np.empty(len(texts), np.uint64), 0
    chunks: list[Any] = texts.chunks
    for chunk in filter(len, chunks):
        if compute.min_max(compute.binary_length(chunk)).as_py() != {"min": 16, "max": 16}:
            return None
        _, places, data = chunk.buffers()
        begin = np.frombuffer(places, np.int32)[chunk.offset]
        halves = np.frombuffer(data, np.uint64, 2 * len(chunk), begin).reshape(-1, 2)
        mixed = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) + halves[:, 1]
        hashes[done : done + len(chunk)] = mixed
        done += len(chunk)
    return hashes


def source_of(table: pa.Table) -> str:
    """Return what a loaded manifest was made from."""
    return (table.schema.metadata or {}).get(_SOURCE_KEY, b"").decode()


def with_coco_ids(schema: pa.Schema, of_images: Mapping[str, int]) -> pa.Schema:
    """Return a manifest's schema that carries the ids which a COCO file gave to its images.

    Args:
        schema: of the manifest.
        of_images: COCO's id by `image_id`; none: the schema stays as it is.
    """
    if not of_images:
        return schema
    text = _COCO_IDS.dump_json(dict(of_images))
    return schema.with_metadata({**(schema.metadata or {}), _COCO_IDS_KEY: text})


def coco_ids_of(table: pa.Table) -> dict[str, int]:
    """Return COCO's id by `image_id`; none where a manifest has none that can be read."""
    try:
        found = _COCO_IDS.validate_json((table.schema.metadata or {}).get(_COCO_IDS_KEY, b"{}"))
    except ValidationError:
        return {}
    return found if len(set(found.values())) == len(found) else {}


def shard_bounds(*lists: tuple[int, int]) -> NDArray[np.int64]:
    """Return where the shards of lists that stand one after another begin, and where they end.

    Args:
        lists: number of images and of images per shard of each; no shard is of two lists.

    Returns:
        (shards + 1,) places from 0, rising.

    Raises:
        ValueError: a shard size below 1.
    """
    parts, begin = [np.zeros(1, np.int64)], 0
    for num_images, size in lists:
        if size < 1:
            raise ValueError(f"expected a shard size of at least 1, got {size}")
        num_shards = -(-num_images // size)
        ends = np.arange(1, num_shards + 1, dtype=np.int64) * size
        parts.append(begin + np.minimum(ends, num_images))
        begin += num_images
    return np.concatenate(parts)


class Shards(Sequence[Shard]):
    """The shards of a list of images; a shard's records are made when it is indexed.

    Args:
        table: rows of the manifest's schema.
        bounds: where the shards begin and end, see `shard_bounds`.
        left_out: (N,) images that no shard has; None: each is in exactly one.
    """

    def __init__(
        self,
        table: pa.Table,
        bounds: NDArray[np.int64],
        left_out: NDArray[np.bool_] | None = None,
    ) -> None:
        self._table = table
        self._bounds = bounds
        self._left_out = left_out

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> list[Shard]: ...
    def __getitem__(self, index: int | slice) -> Shard | list[Shard]:
        """Return one shard, or a list for a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        begin, end = self._bounds[place : place + 2].tolist()
        rows = self._table.slice(begin, end - begin)
        if self._left_out is not None:
            rows = rows.filter(pa.array(~self._left_out[begin:end]))
        return Shard(index=place, refs=tuple(to_records("manifest", rows)))
