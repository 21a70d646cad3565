"""The run folder: every path in it, and the protocol by which shards are committed.

    run.yaml            what the run is (`runinfo`)
    manifest.parquet    its images, frozen
    images/ scores/ annotations/    NNNNN-<attempt>.parquet
    done/NNNNN.json     a shard's marker: written last, created once
    failed/NNNNN.json   a shard that was given up
    evaluation.json confusion.png   what `ovseg evaluate` last found; no part of the run

Readers follow markers and nothing else, so a killed worker leaves garbage but never a lie.
"""

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Literal, get_args

import pyarrow as pa

from pipeline.collection import manifest
from pipeline.run import markers
from pipeline.run.identity import RunInfo, RunPlan, check_same, parse
from pipeline.run.new import MANIFEST_FILE, RUN_FILE, begin
from pipeline.storage import parquet
from pipeline.storage.folder import Folder
from pipeline.storage.local import TEMPORARY_SUFFIX
from schemas.errors import RunFolderError
from schemas.records import FileEntry, Shard, ShardDone, ShardFailed, ShardRows, ShardTally
from schemas.tables import SCHEMA_VERSION, TABLES, to_table

TableName = Literal["images", "scores", "annotations"]
TABLE_NAMES: tuple[TableName, ...] = get_args(TableName)
ROW_GROUP = 4096
_TABLE_FOLDERS = tuple(f"{name}/" for name in TABLE_NAMES)


class RunFolder:
    """A run folder that exists; picklable, workers and driver each hold their own."""

    def __init__(self, folder: Folder) -> None:
        """Keep the folder; `open` and `create_or_resume` check it as well."""
        self.folder = folder

    def __getstate__(self) -> dict[str, Folder]:
        """Leave the cached manifest behind."""
        return {"folder": self.folder}

    @classmethod
    def open(cls, uri: str) -> "RunFolder":
        """Return an existing run.

        Raises:
            RunFolderError: if there is none, or one of another version.
        """
        run = cls(Folder(uri))
        _ = run.info
        return run

    @classmethod
    def create_or_resume(cls, uri: str, plan: RunPlan) -> "RunFolder":
        """Begin a run, or go on with the same one; two drivers may do so at once.

        Damaged shards of a resumed run are taken out, see `repair`.

        Raises:
            RunFolderError: if the folder holds something else, another run, or a damaged manifest.
        """
        folder = Folder(uri)
        if not folder.exists(RUN_FILE):
            begin(folder, plan)
        run = cls.open(uri)
        check_same(run.info, plan, folder.uri)
        run.repair()
        return run

    @cached_property
    def info(self) -> RunInfo:
        """The content of `run.yaml`."""
        try:
            data = self.folder.read_bytes(RUN_FILE)
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{self.folder.uri} is no run folder: it holds no run.yaml"
            ) from error
        return parse(data, self.folder.uri)

    @property
    def fingerprint(self) -> str:
        """The hash of all that can change an output."""
        return self.info.fingerprint

    @cached_property
    def _manifest(self) -> pa.Table:
        data = self.folder.read_bytes(MANIFEST_FILE)
        if markers.sha256(data) != self.info.manifest_sha256:
            raise RunFolderError(
                f"{self.folder.uri}/manifest.parquet is not the one that run.yaml names: "
                "it was changed or damaged; restore it or begin another run"
            )
        return manifest.load(data)

    def manifest(self) -> pa.Table:
        """Return the run's images."""
        return self._manifest

    def shards(self) -> Sequence[Shard]:
        """Return the run's shards; each one's records are made when it is indexed."""
        size = self.info.job().images_per_shard(self.info.num_images)
        return manifest.cut(self._manifest, size)

    def commit(
        self, shard_index: int, attempt: str, rows: ShardRows, tally: ShardTally
    ) -> ShardDone:
        """Write a shard's rows and, last, its marker.

        Args:
            shard_index: place of the shard.
            attempt: letters and digits that tell who wrote it; made unique here.
            rows: all rows of the shard.
            tally: for the driver.

        Returns:
            The marker that stands: another committer's, where one was first.
        """
        standing = self._standing(shard_index)
        if standing is not None:
            return standing
        unique = f"{attempt}-{secrets.token_hex(4)}"
        entries = {}
        for name in TABLE_NAMES:
            file_name = f"{name}/{shard_index:05d}-{unique}.parquet"
            entries[name] = self._write_table(file_name, to_table(name, getattr(rows, name)))
        ours = ShardDone(
            schema_version=SCHEMA_VERSION,
            shard=shard_index,
            attempt=unique,
            fingerprint=self.fingerprint,
            files=entries,
            tally=tally,
        )
        standing = self._mark(ours)
        if standing.attempt != unique:
            for entry in entries.values():
                self.folder.delete(entry.name)
        self.folder.delete(markers.name("failed", shard_index))
        return standing

    def _write_table(self, file_name: str, table: pa.Table) -> FileEntry:
        data = parquet.encode(table, ROW_GROUP)
        self.folder.atomic_write(file_name, data)
        return FileEntry(
            name=file_name,
            num_rows=table.num_rows,
            sha256=markers.sha256(data),
            size_bytes=len(data),
        )

    def _mark(self, ours: ShardDone) -> ShardDone:
        name = markers.name("done", ours.shard)
        while not self.folder.create_once(name, markers.to_json(ours)):
            theirs = self._standing(ours.shard)
            if theirs is not None:
                return theirs
            self.folder.delete(name)
        return ours

    def _standing(self, shard: int) -> ShardDone | None:
        marker = markers.read(self.folder, "done", shard, ShardDone)
        good = marker is not None and markers.is_whole(self.folder, marker, self.fingerprint)
        return marker if good else None

    def fail(self, failed: ShardFailed) -> None:
        """Note that a shard was given up."""
        self.folder.atomic_write(markers.name("failed", failed.shard), markers.to_json(failed))

    def done(self) -> dict[int, ShardDone]:
        """Return the markers of the finished shards, by shard, in order.

        Markers of other runs and such whose files are missing or of another size do not count.
        """
        standing = markers.read_all(self.folder, "done", ShardDone)
        # After the markers: a file is always older than its marker.
        sizes: dict[str, int] = {}
        for folder in _TABLE_FOLDERS:
            sizes |= self.folder.sizes(folder.rstrip("/"))
        return {
            shard: marker
            for shard, marker in standing.items()
            if marker.fingerprint == self.fingerprint
            and all(sizes.get(entry.name) == entry.size_bytes for entry in marker.files.values())
        }

    def failed(self) -> dict[int, ShardFailed]:
        """Return the shards that were given up and not finished since, by shard, in order."""
        return markers.read_all(self.folder, "failed", ShardFailed)

    def repair(self) -> list[int]:
        """Delete the markers of damaged shards, so that they are done again.

        Reads every committed file once and compares its SHA-256 with the marker's.

        Returns:
            The shards that were taken out.
        """
        shards = markers.shards_marked(self.folder, "done")
        with ThreadPoolExecutor(markers.READERS) as pool:
            standing = dict(zip(shards, pool.map(self._standing, shards), strict=True))
        damaged = [shard for shard in shards if standing[shard] is None]
        for shard in damaged:
            self.folder.delete(markers.name("done", shard))
        return damaged

    def read_table(
        self, name: TableName, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield all committed rows of a table, in shard order, 4096 at most at a time.

        Args:
            name: `images`, `scores` or `annotations`.
            columns: those to read; None: all.
        """
        for marker in self.done().values():
            yield from self.shard_table(marker, name, columns).to_batches(max_chunksize=ROW_GROUP)

    def shard_table(
        self, marker: ShardDone, name: TableName, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the rows of one finished shard.

        Raises:
            RunFolderError: if its file was lost or damaged after the marker was read.
        """
        known = TABLES[name][0].names
        unknown = sorted(set(columns or ()) - set(known))
        if unknown:
            raise ValueError(f"table {name} has no columns {unknown}; it has {known}")
        file = marker.files[name].name
        try:
            return parquet.decode(self.folder.read_bytes(file), columns)
        except (pa.ArrowException, OSError) as error:
            raise RunFolderError(
                f"{self.folder.uri}/{file} is damaged: the command that made the run makes it anew"
            ) from error

    def orphans(self) -> list[str]:
        """Return the files that no marker names: left by killed or late workers.

        While a run is going on these may also be files whose marker is about to be written.
        """
        files = [
            name
            for name in self.folder.list()
            if name.startswith(_TABLE_FOLDERS) or name.endswith(TEMPORARY_SUFFIX)
        ]
        standing = markers.read_all(self.folder, "done", ShardDone).values()
        named = {entry.name for marker in standing for entry in marker.files.values()}
        return [name for name in files if name not in named]

    def clean(self) -> list[str]:
        """Delete the orphans and return their names; not while a run is going on."""
        found = self.orphans()
        for name in found:
            self.folder.delete(name)
        return found
