"""From what was listed to the rows of a manifest: sorted by path, each path and id once.

All by column and packed, since ten million images may be listed.
"""

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipeline.collection.list_file import ListedImage
from pipeline.collection.manifest import ROWS_AT_ONCE, PackedRows, ascends, joined_texts
from pipeline.storage import uris
from pipeline.storage.folder import WalkedFile
from schemas.errors import CollectionError
from schemas.redact import redact
from schemas.tables import MANIFEST, to_array

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers
_ID_BYTES = 8
_LISTED = pa.schema([MANIFEST.field(name) for name in ("path", "uri", "size_bytes", "etag")])
_FILES = pa.schema([("path", pa.binary()), *(_LISTED.field(n) for n in ("size_bytes", "etag"))])
EMPTY_PART = re.compile("(?:(?<=/)|^)/")
_HAS_EMPTY_PART = r"\A/|//"


def image_id(path: str) -> str:
    """Return the id of a path: 16 hex digits, the same for composed and decomposed accents."""
    return _id_bytes(path).hex()


def _id_bytes(path: str) -> bytes:
    return hashlib.sha256(unicodedata.normalize("NFC", path).encode()).digest()[:_ID_BYTES]


def pack_files(files: Sequence[WalkedFile]) -> PackedRows:
    """Return files as columns `path` (bytes), `size_bytes` and `etag`.

    Raises:
        CollectionError: a name that no file can have.
    """
    names, sizes, etags = zip(*files, strict=True)
    with _as_no_name():
        paths = [name.encode("utf-8", "surrogateescape") for name in names]
    ends = np.cumsum([0, *map(len, paths)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(paths))]
    columns = [
        pa.Array.from_buffers(pa.binary(), len(paths), buffers),
        to_array(sizes, pa.int64()),
        to_array(etags, pa.string()),
    ]
    packed = PackedRows(_FILES)
    packed.add(pa.RecordBatch.from_arrays(columns, schema=_FILES))
    return packed


@contextmanager
def _as_no_name() -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise CollectionError(f"no file can have the name {error.object!r}") from error


def names_of(files: pa.RecordBatch) -> list[str]:
    """Return the paths of files as texts, as Python has those that are not UTF-8."""
    return [name.decode("utf-8", "surrogateescape") for name in files["path"].to_pylist()]


class Listing:
    """Images as they are found.

    A name that is not UTF-8 or has empty parts gets a form that no other file has: tables and
    exports can hold it.

    Attributes:
        coco_ids: in the COCO file that lists the images, by path.
    """

    def __init__(self) -> None:
        self._plain = PackedRows(_LISTED)
        self._odd: list[ListedImage] = []  # there are few of them
        self.coco_ids: dict[str, int] = {}

    @property
    def num_images(self) -> int:
        """So far."""
        return self._plain.num_rows + len(self._odd)

    def add_columns(self, columns: Sequence[pa.Array]) -> None:
        """Add images by `path`, `uri` and perhaps `size_bytes` and `etag`, all plain texts."""
        count = len(columns[0])
        missing = pa.nulls(count, pa.int64()), to_array([""] * count, pa.string())
        arrays = [*columns, *missing[len(columns) - 2 :]]
        self._plain.add(pa.RecordBatch.from_arrays(arrays, schema=_LISTED))

    def add_files(self, files: pa.RecordBatch, root: str) -> None:
        """Add files of a folder.

        Args:
            files: see `pack_files`.
            root: the folder, normalised.
        """
        try:
            paths = files["path"].cast(pa.string())
        except pa.ArrowInvalid:  # one is not UTF-8
            paths = None
        if paths is not None and uris.is_text(root) and not _any_has_empty_part(paths):
            prefix = uris.join(root, "x").removesuffix("x")
            addresses = joined_texts(prefix, paths)
            self.add_columns([paths, addresses, files["size_bytes"], files["etag"]])
            return
        names = names_of(files)
        values = zip(names, files["size_bytes"].to_pylist(), files["etag"].to_pylist(), strict=True)
        self.add([ListedImage(name, uris.join(root, name), *rest) for name, *rest in values])

    def add(self, entries: Sequence[ListedImage]) -> None:
        """Add images one by one."""
        ids = {entry.path: entry.coco_id for entry in entries if entry.coco_id is not None}
        self.coco_ids |= ids
        for begin in range(0, len(entries), ROWS_AT_ONCE):
            plain = []
            for entry in entries[begin : begin + ROWS_AT_ONCE]:
                named = entry._replace(path=_free_path(entry.path), uri=uris.as_text(entry.uri))
                (plain if named.path == entry.path else self._odd).append(named)
            if plain:
                columns = list(zip(*plain, strict=True))[: len(_LISTED)]
                kinds = zip(columns, _LISTED.types, strict=True)
                with _as_no_name():
                    self.add_columns([to_array(values, kind) for values, kind in kinds])

    def rows(self) -> PackedRows:
        """Return all images in columns `path`, `uri`, `size_bytes` and `etag`."""
        odd, self._odd = self._odd, []
        while odd:
            taken = self._taken(odd)
            self.add([entry for entry in odd if entry.path not in taken])
            odd = [
                entry._replace(path=entry.path.replace("%", "%25"))
                for entry in odd
                if entry.path in taken
            ]
        return self._plain

    def _taken(self, odd: Sequence[ListedImage]) -> set[str]:
        """Return which of the paths other files have."""
        wanted = to_array([entry.path for entry in odd], pa.string())
        return {
            path
            for batch in self._plain.batches()
            for path in batch["path"].filter(compute.is_in(batch["path"], wanted)).to_pylist()
        }


def is_plain(path: str) -> bool:
    """Return whether a name is UTF-8 and has no empty part but perhaps the last one."""
    return _free_path(path) == path


def _free_path(path: str) -> str:
    return EMPTY_PART.sub("%2F", path if uris.is_text(path) else uris.percent_escaped(path))


def _any_has_empty_part(paths: pa.Array) -> bool:
    found = compute.match_substring_regex(paths, _HAS_EMPTY_PART)
    return bool(compute.any(found, min_count=0).as_py())


def each_once(listed: PackedRows, shown: str) -> PackedRows:
    """Return rows sorted by path (code points), without those that are there already.

    Listings are sorted already, as a rule: otherwise all is unpacked to be sorted.

    Args:
        listed: columns `path`, `uri` and any others.
        shown: the collection, for messages.

    Raises:
        CollectionError: two files share a path.
    """
    if _ascend(listed):
        return listed
    table = listed.table().sort_by([("path", "ascending"), ("uri", "ascending")])
    if ascends(table["path"]):
        return PackedRows.of(table)
    before, after = table.slice(0, table.num_rows - 1), table.slice(1)
    same_path, same_uri = (compute.equal(before[name], after[name]) for name in ("path", "uri"))
    places = compute.indices_nonzero(compute.and_not(same_path, same_uri))
    if len(places):
        one, other = table.slice(places[0].as_py(), 2).select(["path", "uri"]).to_pylist()
        raise CollectionError(
            f"{shown} gives the path {one['path']!r} to two files, {redact(one['uri'])} and "
            f"{redact(other['uri'])}: expected one"
        )
    is_new = compute.invert(same_path)
    unique = table.filter(pa.chunked_array([pa.array([True]), *is_new.chunks]))
    repeats = table.num_rows - unique.num_rows
    logger.warning("%s: %d images are listed more than once", shown, repeats)
    return PackedRows.of(unique)


def _ascend(listed: PackedRows) -> bool:
    """Return whether each path comes after the one before, by code points."""
    last = None
    for batch in listed.batches():
        paths = batch["path"] if last is None else pa.concat_arrays([last, batch["path"]])
        if not ascends(pa.chunked_array([paths])):
            return False
        last = paths.slice(len(paths) - 1) if len(paths) else last
    return True


def with_ids(listed: PackedRows, limit: int = 0) -> PackedRows:
    """Return the rows of a manifest.

    Args:
        listed: columns `path`, `uri`, `size_bytes` and `etag`.
        limit: rows that are taken; 0: all.

    Raises:
        CollectionError: two paths have one id.
    """
    most = limit or listed.num_rows
    places = pa.py_buffer(np.arange(ROWS_AT_ONCE + 1, dtype=np.int32) * 2 * _ID_BYTES)
    found, all_ids = PackedRows(MANIFEST), [np.empty(0, np.uint64)]
    for part in _blocks(listed.batches(), most):
        ids = b"".join(map(_id_bytes, part["path"].to_pylist()))
        all_ids.append(np.frombuffer(ids, np.uint64))
        texts = pa.py_buffer(ids.hex().encode())
        columns = dict(zip(part.schema.names, part.columns, strict=True))
        columns["image_id"] = pa.StringArray.from_buffers(part.num_rows, places, texts)
        arrays = [columns[name] for name in MANIFEST.names]
        found.add(pa.RecordBatch.from_arrays(arrays, schema=MANIFEST))
    in_order = np.sort(np.concatenate(all_ids))
    if (in_order[1:] == in_order[:-1]).any():
        _refuse_same_ids(found.table())
    return found


def _blocks(batches: Iterable[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    """Yield the first rows, all parts but the last of the same number of rows."""
    held: list[pa.RecordBatch] = []
    num_held = 0
    for batch in batches:
        held.append(batch.slice(0, most - num_held))
        num_held += held[-1].num_rows
        if num_held >= min(ROWS_AT_ONCE, most):
            joined = pa.concat_batches(held)
            while joined.num_rows >= min(ROWS_AT_ONCE, most) > 0:
                yield joined.slice(0, ROWS_AT_ONCE)
                most -= min(ROWS_AT_ONCE, joined.num_rows)
                joined = joined.slice(ROWS_AT_ONCE)
            held, num_held = [joined], joined.num_rows
        if not most:
            return
    if num_held:
        yield pa.concat_batches(held)


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
