"""From what was listed to the rows of a manifest: sorted by path, each path and id once.

All by column, since a list may name ten million images.
"""

import hashlib
import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipeline.collection.list_file import ListedImage
from pipeline.collection.manifest import ascends, has_repeats
from schemas.errors import CollectionError
from schemas.redact import redact
from schemas.tables import MANIFEST, to_array

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers
_CHUNK = 65536
_ID_BYTES = 8
_LISTED = ("path", "uri", "size_bytes", "etag")


def image_id(path: str) -> str:
    """Return the id of a path: 16 hex digits, the same for composed and decomposed accents."""
    return _id_bytes(path).hex()


def _id_bytes(path: str) -> bytes:
    return hashlib.sha256(unicodedata.normalize("NFC", path).encode()).digest()[:_ID_BYTES]


def to_columns(entries: Sequence[ListedImage]) -> pa.Table:
    """Return entries as columns `path`, `uri`, `size_bytes` and `etag`.

    Raises:
        CollectionError: a name that no file can have.
    """
    schema = pa.schema([MANIFEST.field(name) for name in _LISTED])

    def batch(part: Sequence[ListedImage]) -> pa.RecordBatch:
        values = zip(*part, strict=True)
        columns = zip(values, schema.types, strict=False)  # those after them are no columns
        arrays = [to_array(values, kind) for values, kind in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    try:
        starts = range(0, len(entries), _CHUNK)
        return pa.Table.from_batches([batch(entries[n : n + _CHUNK]) for n in starts], schema)
    except UnicodeEncodeError as error:
        raise CollectionError(f"no file can have the name {error.object!r}") from error


def each_once(listed: pa.Table, shown: str) -> pa.Table:
    """Return rows sorted by path (code points), without those that are there already.

    Args:
        listed: columns `path`, `uri` and any others.
        shown: the collection, for messages.

    Raises:
        CollectionError: two files share a path.
    """
    if ascends(listed["path"]):
        return listed
    listed = listed.sort_by([("path", "ascending"), ("uri", "ascending")])
    if ascends(listed["path"]):
        return listed
    before, after = listed.slice(0, listed.num_rows - 1), listed.slice(1)
    same_path, same_uri = (compute.equal(before[name], after[name]) for name in ("path", "uri"))
    places = compute.indices_nonzero(compute.and_not(same_path, same_uri))
    if len(places):
        one, other = listed.slice(places[0].as_py(), 2).select(["path", "uri"]).to_pylist()
        raise CollectionError(
            f"{shown} gives the path {one['path']!r} to two files, {redact(one['uri'])} and "
            f"{redact(other['uri'])}: expected one"
        )
    is_new = compute.invert(same_path)
    unique = listed.filter(pa.chunked_array([pa.array([True]), *is_new.chunks]))
    repeats = listed.num_rows - unique.num_rows
    logger.warning("%s: %d images are listed more than once", shown, repeats)
    return unique


def with_ids(listed: pa.Table) -> pa.Table:
    """Return the rows of a manifest.

    Args:
        listed: columns `path` and `uri`, perhaps `size_bytes` and `etag`.

    Raises:
        CollectionError: two paths have one id.
    """
    # What is the same in all parts is in memory once.
    most = min(_CHUNK, listed.num_rows)
    places = pa.py_buffer(np.arange(most + 1, dtype=np.int32) * 2 * _ID_BYTES)
    no_sizes, no_etags = pa.nulls(most, pa.int64()), to_array([""] * most, pa.string())
    batches = []
    for part in listed.to_batches(max_chunksize=_CHUNK):
        count = part.num_rows
        ids = b"".join(map(_id_bytes, part["path"].to_pylist())).hex().encode()
        columns: dict[str, pa.Array] = {
            "image_id": pa.StringArray.from_buffers(count, places, pa.py_buffer(ids)),
            "size_bytes": no_sizes.slice(0, count),
            "etag": no_etags.slice(0, count),
        }
        columns |= dict(zip(part.schema.names, part.columns, strict=True))
        arrays = [columns[name] for name in MANIFEST.names]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=MANIFEST))
    table = pa.Table.from_batches(batches, MANIFEST)
    if has_repeats(table["image_id"]):
        _refuse_same_ids(table)
    return table


def _refuse_same_ids(table: pa.Table) -> None:
    first: dict[str, str] = {}
    ids, paths = table["image_id"].to_pylist(), table["path"].to_pylist()
    for number, path in zip(ids, paths, strict=True):
        other = first.setdefault(number, path)
        if other != path:
            raise CollectionError(
                f"two files have names that differ only in how accents are written: {other!r} and "
                f"{path!r} ({other.encode()!r} and {path.encode()!r}); rename one of them, "
                "or list one of them only"
            )
