"""The generations of a run's images: the manifest, and what `--update` has added to it since.

    manifest.parquet                          generation 1
    generations/00002.json                    a later one: its record, created once, written last
    generations/00002-new-<sha12>.parquet     images that came or changed, the manifest's columns
    generations/00002-gone-<sha12>.parquet    images that vanished, or that a changed one replaces

The images of all generations stand one after another, and those of each are cut into shards of
their own, so that no image ever changes its place or its shard. An image that is gone, or that a
changed one has replaced, is superseded: it keeps its place and its committed rows, which readers of
earlier generations (`RUN@1`) still see.

A record names its files with their SHA-256, and holds the hash of the record before it. Files that
no record names were left by a process that was killed; they are never read.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.collection import manifest
from pipeline.collection.changes import Changes
from pipeline.run.identity import RunInfo
from pipeline.run.markers import READERS, bytes_sha256, marker_json
from pipeline.storage import parquet
from pipeline.storage.folder import Folder
from pipeline.storage.local import FileTooLargeError, NotAFileError
from pipeline.storage.waiting import StorageThreads
from schemas.errors import RunFolderError
from schemas.records import FileEntry, Generation
from schemas.tables import MANIFEST, SCHEMA_VERSION

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

FOLDER = "generations"
TABLE_FILES = rf"{FOLDER}/\d{{5}}-(?:new|gone)-[0-9a-f]{{12}}[.]parquet"
"""Pattern of the names of files that records name."""
RECORD_FILES = rf"{FOLDER}/(\d{{5}})[.]json"
_MAX_RECORD_BYTES = 1 << 16
_MAX_TABLE_BYTES = 2 << 30
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GONE = pa.schema([MANIFEST.field(name) for name in ("image_id", "path")])


def record_name(number: int) -> str:
    """Return the name of a generation's record in the run folder."""
    return f"{FOLDER}/{number:05d}.json"


class _Tables(NamedTuple):
    new: pa.Table
    gone: pa.Table


class Generations:
    """The generations of a run up to one of them; nothing changes when others are added.

    Args:
        folder: of the run.
        info: of the run.
        first: returns the images of generation 1.
        later: the records of the others, in order.

    Attributes:
        later: likewise.
    """

    def __init__(
        self,
        folder: Folder,
        info: RunInfo,
        first: Callable[[], pa.Table],
        later: Sequence[Generation] = (),
    ) -> None:
        self._folder = folder
        self._info = info
        self._first = first
        self.later = tuple(later)
        self._unwritten: _Tables | None = None

    @classmethod
    def read(
        cls, folder: Folder, info: RunInfo, first: Callable[[], pa.Table], number: int | None
    ) -> "Generations":
        """Return the generations of a run folder.

        Args:
            folder: of the run.
            info: of the run.
            first: returns the images of generation 1.
            number: the last one to take; None: all that are there.

        Raises:
            RunFolderError: a record is missing, damaged or of another run, or there are not so
                many.
        """
        found = (re.fullmatch(RECORD_FILES, name) for name in folder.list(FOLDER))
        numbers = sorted(int(match[1]) for match in found if match)
        newest = max(numbers, default=1)
        if number is not None and number > newest:
            raise RunFolderError(
                f"{folder.uri} has no generation {number}: its newest is {newest}; without "
                f"@{number} the newest is read"
            )
        read = cls(folder, info, first)
        wanted = range(2, (number or newest) + 1)
        with StorageThreads(READERS) as pool:
            records = list(pool.map(read._read_record, wanted))
        for record in records:
            read._check_record(record)
            read = cls(folder, info, first, (*read.later, record))
        return read

    @property
    def number(self) -> int:
        """Of the newest one."""
        return 1 + len(self.later)

    @property
    def num_images(self) -> int:
        """Images of the collection in the newest one."""
        return self.later[-1].num_images if self.later else self._info.num_images

    @property
    def limit(self) -> int:
        """`image.limit` of the newest one; 0: none."""
        return self.later[-1].limit if self.later else self._info.job().image.limit

    @property
    def sha256(self) -> str:
        """Hash of all of them, which nobody can change one without changing."""
        if not self.later:
            return self._info.manifest_sha256
        return bytes_sha256(marker_json(self.later[-1]))

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """(shards + 1,) the places in `images` where the shards begin, and the end."""
        counts = [self._info.num_images, *(record.new.num_rows for record in self.later)]
        size = self._info.job().images_per_shard
        return manifest.shard_bounds(*((count, size(count)) for count in counts))

    def images(self) -> pa.Table:
        """Return the images of all generations one after another, the superseded ones too.

        Raises:
            RunFolderError: a table is damaged, or does not fit those before it.
        """
        _ = self.superseded
        return self._images

    @cached_property
    def _images(self) -> pa.Table:
        if not self.later:
            return self._first()
        parts = [self._first(), *(tables.new for tables in self._tables)]
        plain = pa.concat_tables([part.replace_schema_metadata() for part in parts])
        return plain.replace_schema_metadata(parts[-1].schema.metadata)  # of the last listing

    @property
    def has_superseded(self) -> bool:
        """Whether an image is superseded; no table is read."""
        return any(record.gone.num_rows for record in self.later)

    @cached_property
    def superseded(self) -> NDArray[np.bool_]:
        """(N,) which images are gone or replaced.

        Raises:
            RunFolderError: a generation loses images that are not there, adds some that are, or
                states another number of them than there are.
        """
        columns = [self._images[name] for name in ("path", "image_id")]
        superseded = np.zeros(self._images.num_rows, bool)
        end = self._info.num_images
        for record, tables in zip(self.later, self._tables, strict=True):
            earlier = superseded[:end]
            is_gone = _is_among(columns[0].slice(0, end), tables.gone["path"]) & ~earlier
            earlier |= is_gone
            is_left = [
                (_is_among(column.slice(0, end), tables.new[name]) & ~earlier).any()
                for name, column in zip(("path", "image_id"), columns, strict=True)
            ]
            end += tables.new.num_rows
            num_images = int((~superseded[:end]).sum())
            if is_gone.sum() != tables.gone.num_rows or any(is_left):
                raise self._damaged(record.number, "does not fit the generation before it")
            if num_images != record.num_images:
                why = f"says {record.num_images:,} images, there are {num_images:,}"
                raise self._damaged(record.number, why)
        return superseded

    def replaced_s(self) -> dict[str, float]:
        """Return when images were replaced, in Unix seconds, by `image_id`.

        What people said earlier of such an image is not of its present content. An image that had
        vanished and came back is one of them.
        """
        found: dict[str, float] = {}
        if not self.has_superseded:
            return found
        ids, end = self._images["image_id"], self._info.num_images
        for record, tables in zip(self.later, self._tables, strict=True):
            before = ids.slice(0, end)
            again = before.filter(pa.array(_is_among(before, tables.new["image_id"])))
            found |= dict.fromkeys(again.to_pylist(), record.at_s)
            end += tables.new.num_rows
        return found

    def prepared(self, found: Changes, limit: int) -> "Generations":
        """Return these generations and one more, which `add` writes.

        Args:
            found: what has changed since the newest one.
            limit: `image.limit` of the new one.
        """
        before = self._images.filter(pa.array(~self.superseded))
        parts = [table.replace_schema_metadata() for table in (found.new, found.changed)]
        new = pa.concat_tables(parts).sort_by("path")
        new = new.cast(MANIFEST.with_metadata(found.new.schema.metadata))
        paths = pa.chunked_array([*found.vanished["path"].chunks, *found.changed["path"].chunks])
        is_gone = pa.array(_is_among(before["path"], paths.cast(pa.string())))
        gone = before.filter(is_gone).select(_GONE.names).cast(_GONE)
        number = self.number + 1
        record = Generation(
            schema_version=SCHEMA_VERSION,
            number=number,
            fingerprint=self._info.fingerprint,
            before=self.sha256,
            at_s=time.time(),
            limit=limit,
            num_images=before.num_rows - gone.num_rows + new.num_rows,
            new=_entry(number, "new", new),
            gone=_entry(number, "gone", gone),
        )
        made = Generations(self._folder, self._info, self._first, (*self.later, record))
        made._unwritten = _Tables(new, gone)
        made._tables = [*self._tables, made._unwritten]
        return made

    def add(self) -> "Generations":
        """Write the generation that was prepared, its record last.

        Returns:
            All that are there now: with another job's in its place where that was first.
        """
        record, tables = self.later[-1], self._unwritten
        if tables is None:
            raise ValueError(f"generation {record.number} is written already")
        for entry, table in ((record.new, tables.new), (record.gone, tables.gone)):
            self._folder.atomic_write(entry.name, parquet.write_table(table))
        now = record.model_copy(update={"at_s": time.time()})
        is_first = self._folder.create_once(record_name(record.number), marker_json(now))
        found = Generations.read(self._folder, self._info, self._first, None)
        if not is_first:
            logger.warning("another job has updated the run to generation %d first", record.number)
            named = {entry.name for one in found.later for entry in (one.new, one.gone)}
            for entry in (record.new, record.gone):
                if entry.name not in named:
                    self._folder.discard(entry.name)
        return found

    def has_later(self) -> bool:
        """Return whether another job has added one since these were read."""
        return self._folder.exists(record_name(self.number + 1))

    @cached_property
    def _tables(self) -> list[_Tables]:
        """The tables of each later generation."""
        return [
            _Tables(
                self._checked(
                    record,
                    record.new,
                    manifest.read_manifest(self._read(record, record.new), record.new.name),
                ),
                self._checked(record, record.gone, self._read_gone(record)),
            )
            for record in self.later
        ]

    def _checked(self, record: Generation, entry: FileEntry, table: pa.Table) -> pa.Table:
        if table.num_rows != entry.num_rows:
            why = f"says {entry.num_rows:,} rows of {entry.name}, it has {table.num_rows:,}"
            raise self._damaged(record.number, why)
        return table

    def _read_record(self, number: int) -> Generation:
        try:
            data = self._folder.read_bytes(record_name(number), _MAX_RECORD_BYTES)
            record = Generation.model_validate_json(data)
        except FileNotFoundError as error:
            raise self._damaged(number, "is missing") from error
        except (ValidationError, NotAFileError, FileTooLargeError) as error:
            raise self._damaged(number, "is damaged") from error
        if marker_json(record) != data:
            raise self._damaged(number, "is not what ovseg writes")
        return record

    def _check_record(self, record: Generation) -> None:
        """Check a record against those before it, which are these generations."""
        number = self.number + 1
        if record.fingerprint != self._info.fingerprint:
            raise self._damaged(number, "is of another run")
        if record.number != number or record.before != self.sha256:
            raise self._damaged(number, "does not follow the generation before it")
        for kind, entry in (("new", record.new), ("gone", record.gone)):
            is_named = _SHA256.fullmatch(entry.sha256) and entry.name == _name(
                number, kind, entry.sha256
            )
            if not is_named or entry.size_bytes > _MAX_TABLE_BYTES:
                raise self._damaged(number, f"names no file of its own as its {kind} images")

    def _read(self, record: Generation, entry: FileEntry) -> bytes:
        try:
            data = self._folder.read_bytes(entry.name, max(1, entry.size_bytes))
        except (FileNotFoundError, NotAFileError, FileTooLargeError) as error:
            raise self._damaged(record.number, f"names {entry.name}, which is gone") from error
        if bytes_sha256(data) != entry.sha256:
            raise self._damaged(record.number, f"names {entry.name}, which is damaged")
        return data

    def _read_gone(self, record: Generation) -> pa.Table:
        try:
            table = parquet.read_table(self._read(record, record.gone))
            return table.cast(_GONE)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise self._damaged(record.number, f"names {record.gone.name}: {error}") from error

    def _damaged(self, number: int, why: str) -> RunFolderError:
        return RunFolderError(
            f"{self._folder.uri}/{record_name(number)} {why}: restore it from a copy, or move the "
            f"records of generation {number} and all later ones away to have the run as it was "
            f"before; --update lists its images again"
        )


def _name(number: int, kind: str, sha256: str) -> str:
    return f"{FOLDER}/{number:05d}-{kind}-{sha256[:12]}.parquet"


def _entry(number: int, kind: str, table: pa.Table) -> FileEntry:
    data = parquet.write_table(table)
    sha256 = bytes_sha256(data)
    return FileEntry(
        name=_name(number, kind, sha256),
        num_rows=table.num_rows,
        sha256=sha256,
        size_bytes=len(data),
    )


def _is_among(texts: pa.ChunkedArray, wanted: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return (N,) which of some texts are among the wanted ones."""
    return compute.is_in(texts, value_set=wanted.combine_chunks()).to_numpy()
