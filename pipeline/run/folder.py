"""The run folder: every path in it, and the protocol by which shards are committed.

    run.yaml            what the run is (`identity.py`)
    manifest.parquet    its images, frozen
    generations/        images that came, changed or vanished since (`generations.py`)
    images/ scores/ annotations/ vectors/    NNNNN-<attempt>.parquet
    features/           likewise, where they are kept (`tables/stored_features.py`); a shard counts
                        without
    done/NNNNN.json     a shard's done marker: written last, created once; replaced as a whole
                        when images that failed were tried again
    failed/NNNNN.json   a shard that was given up
    webhook/<id>.json   an end of the run that was told (`pipeline/job/monitoring/webhook.py`)
    evaluation.json evaluation_instances.json confusion.png contact_sheet.png   of `ovseg
                        evaluate` and `sheet`; no part of the run

Readers follow done markers and nothing else, so a killed worker leaves garbage but never a lie.
"""

import logging
import re
import secrets
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from pipeline.annotate.stopwatch import Stopwatch
from pipeline.collection import manifest
from pipeline.collection.changes import Changes
from pipeline.run import markers
from pipeline.run.generations import FOLDER as GENERATIONS
from pipeline.run.generations import RECORD_FILES, TABLE_FILES, Generations
from pipeline.run.identity import (
    RunIdentity,
    RunInfo,
    check_same_run,
    describe_run,
    other_versions,
    parse_run_file,
)
from pipeline.run.tables import old_versions, shard_files
from pipeline.run.tables.row_check import checked_rows
from pipeline.run.tables.rows import rows_of
from pipeline.run.trust.confirmed import Confirmed, remember_manifest
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.storage.local import TEMPORARY_SUFFIX, make_private
from pipeline.storage.waiting import StorageThreads
from pipeline.storage.yaml_file import MAX_BYTES
from schemas.base import counted
from schemas.config import ALL_SHARDS, ArrayTask, JobConfig
from schemas.errors import (
    BlockedStoreError,
    ErrorCode,
    FeaturesError,
    RunFolderError,
    UserError,
)
from schemas.records import (
    MASK_KINDS,
    TABLE_NAMES,
    ImageResult,
    MaskKind,
    Shard,
    ShardDone,
    ShardFailed,
    ShardRows,
    ShardTally,
    TableName,
)
from schemas.redact import holds_secret, redact
from schemas.tables import SCHEMA_VERSION, TABLES, to_records

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

RUN_FILE = "run.yaml"
MANIFEST_FILE = "manifest.parquet"
FEATURES = "features"
"""Folder of stored features; whoever needs the space may delete it."""
_MAX_MANIFEST_BYTES = 2 << 30
"""Ten million images take about 400 MB; it is read whole."""
_MAY_HOLD_SECRETS = "://.*[?#@]"
_TABLE_FOLDERS = tuple(f"{name}/" for name in TABLE_NAMES)
_FOLDERS = (*_TABLE_FOLDERS, f"{FEATURES}/", "done/", "failed/", f"{GENERATIONS}/")
_OUR_FILES = re.compile(
    rf"(?:{'|'.join((*TABLE_NAMES, FEATURES))})/\d{{5,}}-[\w-]+[.]parquet|{TABLE_FILES}"
    rf"|(?:.+/)?[.][^/]+[.][0-9a-f]+{re.escape(TEMPORARY_SUFFIX)}"
)
"""Names that ovseg itself can have made, and a killed process can have left."""
_MARKERS = re.compile(
    rf"(?:done|failed)/\d{{5,}}[.]json|webhook/[0-9a-f]{{16}}[.]json|{RECORD_FILES}"
)
_OF_GENERATION = re.compile(r"(.+)@([1-9]\d{0,4})/*")
"""A run folder and a generation of it: `RUN@2`."""
_REPLACED = "it changed or vanished before it was annotated"
_TOP_FILES = (RUN_FILE, MANIFEST_FILE)


class RunFolder:
    """A run folder that exists; picklable, so that driver and workers each hold their own.

    Args:
        folder: the place; `open` and `create_or_resume` check it as well.
        confirmed: what the user says of its images, see `pipeline.run.images`.
        generation: the last generation of its images that counts; None: the newest one that is
            there when images are first asked for.

    Attributes:
        generation: as given.
        is_first: `create_or_resume` began the run; no other driver can be at work yet.
    """

    def __init__(
        self, folder: Folder, confirmed: Confirmed | None = None, generation: int | None = None
    ) -> None:
        self.folder = folder
        self.confirmed = confirmed or Confirmed()
        self.generation = generation
        self._counted: dict[tuple[int, str], tuple[ShardTally, int]] = {}
        self.is_first = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is cached."""
        names = ("folder", "confirmed", "is_first", "generation")
        return {**{name: getattr(self, name) for name in names}, "_counted": {}}

    @classmethod
    def open(cls, uri: str, confirmed: Confirmed | None = None) -> "RunFolder":
        """Return an existing run.

        Args:
            uri: the run folder; with `@2` behind it as it was in generation 2 of its images.
            confirmed: what the user says of its images; None: nothing.

        Raises:
            RunFolderError: there is none, or one of another version, or no such generation.
        """
        run, named = cls(_run_folder(uri), confirmed), _OF_GENERATION.fullmatch(uri)
        if named and not run.folder.exists(RUN_FILE):
            run = cls(_run_folder(named[1]), confirmed, int(named[2]))
            _ = run.generations
        _ = run.info
        return run

    @classmethod
    def create_or_resume(
        cls, uri: str, identity: RunIdentity, images: pa.Table | manifest.PackedRows
    ) -> "RunFolder":
        """Begin a run, or resume the same one; two drivers may do so at once.

        Damaged shards of a resumed run are taken out, see `repair`.

        Args:
            uri: the run folder.
            identity: what can change an output.
            images: rows of the manifest's schema; not used where the run has its frozen list;
                packed ones are released once they are written.

        Raises:
            RunFolderError: the folder holds something else, another run, or a damaged manifest.
        """
        folder = _run_folder(uri)
        is_new = not folder.exists(RUN_FILE)
        is_first, sha256 = _begin(folder, identity, images) if is_new else (False, "")
        run = cls.open(uri)
        run.is_first = is_first
        if sha256 == run.info.manifest_sha256:  # ours: millions of images are not read again
            run._manifest = manifest.with_source(images, identity.source)
        run.check_same(identity)
        run.repair()
        return run

    def check_same(
        self, identity: RunIdentity, *, is_finished: bool = False, updates: bool = False
    ) -> None:
        """Check that a job with this identity continues this run.

        Args:
            identity: of the job.
            is_finished: nothing is left to compute: versions of libraries do not matter.
            updates: it may take more images (`image.limit`) than the newest generation has.

        Raises:
            RunFolderError: names the settings or the versions that differ.
        """
        limit, uri = self.generations.limit, self.folder.uri
        check_same_run(
            self.info, identity, uri, limit=limit, is_finished=is_finished, updates=updates
        )

    def check_store(self) -> None:
        """Warn where the place overwrites files that are to be created once, before any shard."""
        if not self.folder.creates_once(RUN_FILE):
            logger.warning(
                "%s: this store does not create files only once (it refuses or ignores "
                "If-None-Match); ovseg looks before it writes instead, which is safe for one "
                "driver: do not start a second one on this run folder at the same time",
                self.folder.uri,
            )

    def check_present(self) -> None:
        """Check that nobody has deleted or moved the run while shards were written into it.

        Raises:
            RunFolderError: `run.yaml` is gone: what lies there now is not a run.
        """
        if not self.folder.exists(RUN_FILE):
            raise RunFolderError(
                f"{self.folder.uri}: {RUN_FILE} is gone: the run folder was deleted or moved while "
                "the job ran, and holds only what was written since then; move it back, or delete "
                "the folder and give the command again"
            )

    @cached_property
    def info(self) -> RunInfo:
        """The content of `run.yaml`."""
        try:
            data = self.folder.read_bytes(RUN_FILE, MAX_BYTES)
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{self.folder.uri} is not a run folder ({RUN_FILE} is missing): expected one that "
                "`ovseg annotate --out` has begun"
            ) from error
        return parse_run_file(data, self.folder.uri)

    @property
    def fingerprint(self) -> str:
        """The hash of all that can change an output."""
        return self.info.fingerprint

    @cached_property
    def _manifest(self) -> pa.Table:
        try:
            data = self.folder.read_bytes(MANIFEST_FILE, _MAX_MANIFEST_BYTES)
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{self.folder.uri}/{MANIFEST_FILE} is gone: the file was lost, or the run folder "
                "deleted or moved: put it back, or delete the folder and give the command again"
            ) from error
        if markers.bytes_sha256(data) != self.info.manifest_sha256:
            raise RunFolderError(
                f"{self.folder.uri}/{MANIFEST_FILE} is not the one that {RUN_FILE} names: "
                "it was changed or damaged; restore it or begin another run"
            )
        table = manifest.read_manifest(data)
        if table.num_rows != self.info.num_images:
            raise RunFolderError(
                f"{self.folder.uri}/{MANIFEST_FILE} has {table.num_rows:,} images, {RUN_FILE} says "
                f"{self.info.num_images:,}: restore both or begin another run"
            )
        return table

    @cached_property
    def generations(self) -> Generations:
        """The generations of the run's images, as they were when this was first asked for.

        Raises:
            RunFolderError: one is damaged, or the one that was named is not there.
        """
        return Generations.read(self.folder, self.info, lambda: self._manifest, self.generation)

    @property
    def num_images(self) -> int:
        """Images of the collection, see `manifest`."""
        return self.generations.num_images

    @property
    def num_shards(self) -> int:
        """Shards of all generations."""
        return len(self.generations.bounds) - 1

    def manifest(self) -> pa.Table:
        """Return the images of the collection: rows of the manifest's schema, in places' order."""
        return self._current

    @cached_property
    def _current(self) -> pa.Table:
        images = self.all_images()
        if not self.generations.has_superseded:
            return images
        return images.filter(pa.array(~self.generations.superseded))

    def all_images(self) -> pa.Table:
        """Return the images of all generations by place, also those that are superseded."""
        return self.generations.images()

    def places(self, image_ids: Sequence[str]) -> list[int]:
        """Return the places of images of the collection among `all_images`; -1: none has it."""
        known = self.manifest()["image_id"].combine_chunks()
        found = compute.index_in(pa.array(image_ids, pa.string()), value_set=known)
        rows = found.fill_null(-1).to_numpy(zero_copy_only=False)
        if not self.generations.has_superseded or not len(known):
            return rows.tolist()
        places = np.flatnonzero(~self.generations.superseded)
        return np.where(rows < 0, -1, places[rows]).tolist()

    def shard_of(self, place: int) -> int:
        """Return the shard of an image, see `places`."""
        return int(np.searchsorted(self.generations.bounds, place, side="right")) - 1

    def shards(self) -> Sequence[Shard]:
        """Return the run's shards; the records of each are made when it is indexed.

        Images that are superseded are left out, so that a shard may have none.
        """
        generations = self.generations
        left_out = generations.superseded if generations.has_superseded else None
        return manifest.Shards(self.all_images(), generations.bounds, left_out)

    def shards_left(self, done: Container[int]) -> list[int]:
        """Return the shards that have images of the collection and are none of some, in order."""
        left = [shard for shard in range(self.num_shards) if shard not in done]
        if not left or not self.generations.has_superseded:
            return left
        sizes = self.shard_sizes()
        return [shard for shard in left if sizes[shard]]

    def shard_sizes(self) -> NDArray[np.int64]:
        """Return (shards,) how many images of the collection each shard has."""
        bounds = self.generations.bounds
        if not self.generations.has_superseded:
            return np.diff(bounds)
        return np.add.reduceat((~self.generations.superseded).astype(np.int64), bounds[:-1])

    @cached_property
    def replaced_s(self) -> dict[str, float]:
        """When images were replaced, see `Generations.replaced_s`."""
        return self.generations.replaced_s()

    def updated(self, found: Changes, limit: int) -> "RunFolder":
        """Return the run with a further generation, which `write_update` writes.

        Args:
            found: what has changed since the newest one.
            limit: `image.limit` of the new one.
        """
        run = RunFolder(self.folder, self.confirmed)
        run.info, run._manifest = self.info, self._manifest
        run.generations = self.generations.prepared(found, limit)
        return run

    def write_update(self, config: JobConfig) -> None:
        """Write the generation of `updated`; two jobs may do so at once.

        Args:
            config: of the job that has listed its images.

        Raises:
            RunFolderError: another job was first, and listed other images.
        """
        ours = self.generations.later[-1]
        num_before = self.all_images().num_rows - ours.new.num_rows
        _protect_secrets(self.folder, [self.all_images()["uri"].slice(num_before)])
        now = self.generations.add()
        theirs = now.later[ours.number - 2]
        listed = [(one.before, one.new, one.gone, one.limit) for one in (ours, theirs)]
        if listed[0] != listed[1] or now.number > ours.number:
            raise RunFolderError(
                f"{self.folder.uri}: another job has updated this run at the same time (it has "
                f"generation {now.number} now), and listed other images than this job: give the "
                "command again"
            )
        self.generations = now
        remember_manifest(now.sha256, config)

    def newest(self) -> "RunFolder":
        """Return this run, or the same with the images that others have added since.

        A run that was opened with the number of a generation stays at it.
        """
        if self.generation is not None or not self.generations.has_later():
            return self
        return RunFolder(self.folder, self.confirmed)

    def check_newest(self) -> None:
        """Check that there is no later generation: people decide on masks that are current.

        Raises:
            UserError: there is one.
        """
        if self.generations.has_later():
            raise UserError(
                f"{self.folder.uri}: this is generation {self.generations.number} of the run, and "
                "there is a later one: decide on the newest (load the page again, or give the run "
                "without @)"
            )

    def commit(
        self,
        shard_index: int,
        attempt: str,
        rows: ShardRows,
        tally: ShardTally,
        before: ShardDone | None = None,
    ) -> ShardDone:
        """Write a shard's rows and, last, its done marker.

        A shard that was committed before keeps its rows unless these are better, see
        `ShardTally.is_better_than`, or were made from them. The marker is replaced as a whole, so
        that readers see the rows of one attempt or of the other; the files of the other are left
        for those who read them now, and are orphans.

        Args:
            shard_index: place of the shard.
            attempt: letters and digits that say who wrote it; made unique here.
            rows: all rows of the shard; images that are superseded may have none.
            tally: for the driver; the seconds of the writing are added.
            before: the marker of the rows that these were made from, image by image the better one.

        Returns:
            The marker that counts: another committer's, where one was first; as `done` has it.
        """
        return self._as_counted(self._commit(shard_index, attempt, rows, tally, before))

    def _commit(
        self,
        shard_index: int,
        attempt: str,
        rows: ShardRows,
        tally: ShardTally,
        before: ShardDone | None,
    ) -> ShardDone:
        with Stopwatch() as writing:
            rows, tally = self._with_superseded(shard_index, rows, tally)
            committed = self._committed(shard_index)
            if committed is not None and not _takes_the_place(tally, committed, before):
                return committed
            unique = f"{attempt}-{secrets.token_hex(4)}"
            files = shard_files.write_files(self.folder, shard_index, unique, rows)
        ours = ShardDone(
            schema_version=SCHEMA_VERSION,
            shard=shard_index,
            attempt=unique,
            fingerprint=self.fingerprint,
            files={name: files[name] for name in TABLE_NAMES},
            features=files.get("features"),
            tally=tally.with_seconds(write=writing.seconds),
            other_sizes=rows.other_sizes,
            other_versions=self._other_versions,
        )
        try:
            committed = self._create_marker(ours, before)
        except BlockedStoreError:  # refused; after other errors the marker may have been written
            shard_files.discard(self.folder, files)
            raise
        if committed.attempt != unique:
            shard_files.discard(self.folder, files)
        if shard_index in self._noted_failures:
            self.folder.discard(markers.marker_path("failed", shard_index))
            self._noted_failures.discard(shard_index)
        return committed

    def _with_superseded(
        self, shard: int, rows: ShardRows, tally: ShardTally
    ) -> tuple[ShardRows, ShardTally]:
        """Give a row to each superseded image of a shard that was not annotated any more."""
        superseded = self.superseded_in(shard)
        known = {row.image_id: row for row in rows.images}
        if superseded is None:
            return rows, tally
        images = []
        refs = to_records("manifest", self.rows_of_shard(shard))
        for ref, is_superseded in zip(refs, superseded.tolist(), strict=True):
            row = known.get(ref.image_id)
            if row is None and is_superseded:
                code = ErrorCode.NOT_FOUND
                failed = {"status": "error", "error_code": code, "error_message": _REPLACED}
                base = {"image_id": ref.image_id, "path": ref.path, "uri": ref.uri}
                row = ImageResult.model_validate({**base, **failed})
            if row is not None:
                images.append(row)
        added = len(images) - len(rows.images)
        errors = Counter(tally.errors)
        errors.update({str(ErrorCode.NOT_FOUND): added} if added else {})
        update = {"num_images": tally.num_images + added, "errors": dict(sorted(errors.items()))}
        rows = rows.model_copy(update={"images": tuple(images)})
        return rows, tally.model_copy(update=update)

    @cached_property
    def _noted_failures(self) -> set[int]:
        return set(markers.marked_shards(self.folder, "failed"))

    @cached_property
    def _other_versions(self) -> dict[str, str]:
        return other_versions(self.info)

    def _create_marker(self, ours: ShardDone, before: ShardDone | None) -> ShardDone:
        """Write the done marker unless there is one as good; return the one that is there then."""
        path = markers.marker_path("done", ours.shard)
        while not self.folder.create_once(path, markers.marker_json(ours)):
            theirs = self._committed(ours.shard)
            if theirs is None:
                self.folder.delete(path)
            elif _takes_the_place(ours.tally, theirs, before):
                self.folder.atomic_write(path, markers.marker_json(ours))
                return ours
            else:
                return theirs
        return ours

    def _committed(self, shard: int) -> ShardDone | None:
        """Return a shard's done marker if its files are intact."""
        marker = markers.read_marker(self.folder, "done", shard, ShardDone)
        if marker is None or not markers.is_intact(self.folder, marker, self.fingerprint):
            return None
        return marker if self._has_images_of_shard(marker) else None

    def fail(self, failed: ShardFailed) -> None:
        """Note that a shard was given up."""
        path = markers.marker_path("failed", failed.shard)
        safe = failed.model_copy(update={"message": redact(failed.message)})
        self.folder.atomic_write(path, markers.marker_json(safe))
        self._noted_failures.add(failed.shard)

    def done(self) -> dict[int, ShardDone]:
        """Return the markers of the finished shards, by shard, in order.

        Markers of other runs and markers with files that are missing or of another size do not
        count. Images that are superseded are not counted in their tallies, but for the seconds.
        """
        found = markers.read_markers(self.folder, "done", ShardDone)
        if max(found, default=-1) >= self.num_shards and self.generations.has_later():
            found = {shard: one for shard, one in found.items() if shard < self.num_shards}
        # After the markers: a file is always older than its marker.
        sizes: dict[str, int] = {}
        for folder in _TABLE_FOLDERS:
            sizes |= self.folder.sizes(folder.rstrip("/"))
        whole = {
            shard: old_versions.with_new_stages(marker) if marker.schema_version == 1 else marker
            for shard, marker in found.items()
            if marker.fingerprint == self.fingerprint
            and all(sizes.get(entry.name) == entry.size_bytes for entry in marker.files.values())
            and self._has_images_of_shard(marker)
        }
        if not self.generations.has_superseded:
            return whole
        with StorageThreads(markers.READERS) as pool:
            counted = pool.map(self._if_sound, whole.values())
            return {marker.shard: marker for marker in counted if marker is not None}

    def _has_images_of_shard(self, marker: ShardDone) -> bool:
        shard, said = marker.shard, marker.tally.num_images
        expected = len(self._places_of_shard(shard))
        if said == expected:
            return True
        why = f"it says {said} images, the shard has {expected}"
        markers.does_not_count(self.folder, markers.marker_path("done", shard), why)
        return False

    def _places_of_shard(self, shard: int) -> range:
        bounds = self.generations.bounds
        return range(*bounds[shard : shard + 2].tolist()) if shard < self.num_shards else range(0)

    def rows_of_shard(self, shard: int) -> pa.Table:
        """Return the images of a shard, also those that are superseded; none of one that is not."""
        places = self._places_of_shard(shard)
        return self.all_images().slice(places.start, len(places))

    def superseded_in(self, shard: int) -> NDArray[np.bool_] | None:
        """Return (images of the shard,) which are superseded; None: none is."""
        if not self.generations.has_superseded:
            return None
        places = self._places_of_shard(shard)
        found = self.generations.superseded[places.start : places.stop]
        return found if found.any() else None

    def _if_sound(self, marker: ShardDone) -> ShardDone | None:
        """Return a marker as it counts now; None: the table that tells cannot be read."""
        try:
            return self._as_counted(marker)
        except RunFolderError as error:
            path = markers.marker_path("done", marker.shard)
            markers.does_not_count(self.folder, path, str(error))
            return None

    def _as_counted(self, marker: ShardDone) -> ShardDone:
        """Return a marker whose tally counts no image that is superseded, but for the seconds."""
        if self.superseded_in(marker.shard) is None:
            return marker
        return marker.model_copy(update={"tally": self._tallies(marker)[0]})

    def num_annotated(self, marker: ShardDone) -> int:
        """Return how many images of a finished shard were annotated, superseded ones as well."""
        if self.superseded_in(marker.shard) is None:
            return marker.tally.num_images - sum(marker.tally.errors.values())
        return self._tallies(marker)[1]

    def _tallies(self, marker: ShardDone) -> tuple[ShardTally, int]:
        """Return the tally without superseded images, and the number of annotated ones with them.

        Args:
            marker: of a shard that has superseded images.
        """
        key = marker.shard, marker.attempt
        if key not in self._counted:
            columns = ["image_id", "status", "error_code", "num_segments", "num_frames"]
            stored = self.stored_table(marker, "images", columns)
            rows = rows_of(self._without_superseded(marker.shard, stored))
            errors = Counter(row["error_code"] for row in rows if row["status"] != "ok")
            update = {
                "num_images": len(rows),
                "num_segments": sum(row["num_segments"] for row in rows),
                "errors": dict(sorted(errors.items())),
                "num_multi_frame": sum(row["num_frames"] > 1 for row in rows),
            }
            num_annotated = stored["status"].to_pylist().count("ok")
            self._counted[key] = marker.tally.model_copy(update=update), num_annotated
        return self._counted[key]

    def _without_superseded(self, shard: int, table: pa.Table) -> pa.Table:
        """Return the rows of a shard's table that are of no superseded image.

        Args:
            shard: which one.
            table: some of its rows, with `image_id`.
        """
        superseded = self.superseded_in(shard)
        if superseded is None:
            return table
        ids = self.rows_of_shard(shard)["image_id"].filter(pa.array(superseded)).combine_chunks()
        is_superseded = compute.is_in(table["image_id"].cast(pa.string()), value_set=ids)
        return table.filter(compute.invert(is_superseded))

    def marker(self, shard: int) -> ShardDone | None:
        """Return the marker of a shard as it is now; its files are not looked at."""
        found = markers.read_marker(self.folder, "done", shard, ShardDone)
        return self._if_sound(found) if found and found.fingerprint == self.fingerprint else None

    def shard_rows(self, marker: ShardDone) -> ShardRows:
        """Return all rows of one finished shard as records, superseded images too.

        Raises:
            RunFolderError: see `shard_table`.
        """
        tables: dict[str, pa.Table] = {
            name: self.stored_table(marker, name) for name in TABLE_NAMES
        }
        try:
            tables["features"] = shard_files.read_features(self.folder, marker)
        except FeaturesError as error:
            logger.warning("%s", error)
        rows = {name: tuple(to_records(name, table)) for name, table in tables.items()}
        return ShardRows.model_validate({**rows, "other_sizes": marker.other_sizes})

    def other_sizes(self, done: Iterable[ShardDone]) -> dict[str, int]:
        """Return the bytes of images that were annotated with another size than they are listed.

        Args:
            done: markers of finished shards.

        Returns:
            By `image_id`, without superseded images.
        """
        sizes: dict[str, int] = {}
        for marker in done:
            if not marker.other_sizes:  # nearly all
                continue
            ids = pa.table({"image_id": pa.array(marker.other_sizes, pa.string())})
            for image_id in self._without_superseded(marker.shard, ids)["image_id"].to_pylist():
                sizes[image_id] = marker.other_sizes[image_id]
        return sizes

    def failed(self) -> dict[int, ShardFailed]:
        """Return the shards that were given up and not finished since, by shard, in order."""
        failed = markers.read_markers(self.folder, "failed", ShardFailed)
        left = set(self.shards_left(self.done())) if failed else ()
        is_over = {shard for shard in range(self.num_shards) if shard not in left}
        return {shard: note for shard, note in failed.items() if shard not in is_over}

    def repair(self, task: ArrayTask = ALL_SHARDS) -> list[int]:
        """Delete the markers of damaged shards, so that these shards are done again.

        Reads every committed file of a task's shards once and compares its SHA-256 with the
        marker's.

        Returns:
            The shards that were taken out.
        """
        # Those of a later generation are not this job's.
        marked = markers.marked_shards(self.folder, "done")
        shards = [shard for shard in marked if shard < self.num_shards and task.owns(shard)]
        with StorageThreads(markers.READERS) as pool:
            committed = list(pool.map(self._committed, shards))
        damaged = [s for s, marker in zip(shards, committed, strict=True) if marker is None]
        for shard in damaged:
            self.folder.delete(markers.marker_path("done", shard))
        return damaged

    def read_table(
        self, name: TableName, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield all committed rows of a table, in shard order, 4096 at most at a time.

        Args:
            name: which one.
            columns: those to read; None: all.
        """
        for marker in self.done().values():
            table = self.shard_table(marker, name, columns)
            yield from table.to_batches(max_chunksize=shard_files.ROW_GROUP)

    def table_files(self, name: TableName) -> list[str]:
        """Return the paths or URLs of a table's committed files, in shard order, for other readers.

        Files that killed workers left in the folder are none of them.

        Raises:
            UserError: there is none, or some hold rows of images that are superseded.
        """
        markers_by_shard = self.done()
        held = sum(
            int(superseded.sum())
            for shard in markers_by_shard
            if (superseded := self.superseded_in(shard)) is not None
        )
        if held:
            raise UserError(
                f"{self.folder.uri}: {counted(held, 'image')} vanished or changed, and the files "
                "still hold their rows; open_run(...) in Python gives tables without them"
            )
        if not markers_by_shard:
            raise UserError(f"{self.folder.uri}: no shard is finished yet, so there are no files")
        entries = (marker.files.get(name) for marker in markers_by_shard.values())
        names = [entry.name for entry in entries if entry is not None]
        if not names:
            raise UserError(
                f"{self.folder.uri}: no finished shard has a table of {name}: it was made by an "
                "ovseg that wrote none"
            )
        return [uris.join(self.folder.uri, file) for file in names]

    def shard_table(
        self, marker: ShardDone, name: TableName, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the rows of one finished shard, without those of superseded images.

        Raises:
            RunFolderError: see `stored_table`.
        """
        if self.superseded_in(marker.shard) is None:
            return self.stored_table(marker, name, columns)
        wanted = list(columns or TABLES[name][0].names)
        table = self.stored_table(marker, name, list(dict.fromkeys((*wanted, "image_id"))))
        return self._without_superseded(marker.shard, table).select(wanted)

    def stored_table(
        self, marker: ShardDone, name: TableName, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return all rows of one finished shard, also those of images that are superseded.

        Raises:
            RunFolderError: if its file was lost or damaged after the marker was read, or holds rows
            that cannot be of this run.
        """
        known = TABLES[name][0].names
        unknown = sorted(set(columns or ()) - set(known))
        if unknown:
            raise ValueError(f"table {name} has no columns {unknown}; it has {known}")
        if name not in marker.files:  # of an older version, which had no such table
            return TABLES[name][0].empty_table().select(list(columns or known))
        file = marker.files[name].name
        try:
            wanted = self.decoded_table(marker, name, self.folder.read_bytes(file), columns)
            if wanted.num_rows != marker.files[name].num_rows:
                raise ValueError(
                    f"it has {wanted.num_rows} rows, its marker says {marker.files[name].num_rows}"
                )
            return checked_rows(name, wanted, self.rows_of_shard(marker.shard), self._labels)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise RunFolderError(
                f"{self.folder.uri}/{file} is damaged: repeat the command that made the run to "
                f"restore it ({error})"
            ) from error

    def decoded_table(
        self,
        marker: ShardDone,
        name: TableName,
        data: bytes,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return the rows in a file of a shard under today's names; what they say is not checked.

        Args:
            marker: of the shard.
            name: of the table.
            data: the file.
            columns: those to read; None: all.

        Raises:
            pyarrow.ArrowException, OSError, ValueError, KeyError: it holds no such table.
        """
        values = {"kind": self.mask_kind}
        return shard_files.decoded_table(marker, name, data, values, columns)

    @cached_property
    def mask_kind(self) -> MaskKind:
        """What the run's segments are."""
        return MASK_KINDS[self.info.job().masks.segments]

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        return self.info.job().vocabulary.names

    def orphans(self) -> list[str]:
        """Return the files that no marker or record names: left by killed or late processes.

        While a run is going on these may also be files whose marker is about to be written.
        """
        files = [name for name in self.folder.list() if _OUR_FILES.fullmatch(name)]
        found = markers.read_markers(self.folder, "done", ShardDone).values()
        named = {entry.name for marker in found for entry in marker.all_files.values()}
        for record in RunFolder(self.folder).generations.later:
            named |= {record.new.name, record.gone.name}
        return [name for name in files if name not in named]

    def links(self) -> list[str]:
        """Return the symbolic links in the folder; none of them is followed."""
        if uris.scheme(self.folder.uri):
            return []  # stores have none
        found = self.folder.walk()
        return sorted(name for name, size, _ in found if size is None and not name.endswith("/"))

    def is_own(self, name: str) -> bool:
        """Return whether ovseg gives a file of a run this name: table, marker, record, leftover."""
        return bool(_OUR_FILES.fullmatch(name) or _MARKERS.fullmatch(name)) or name in _TOP_FILES

    def clean(self) -> list[str]:
        """Delete the orphans and return their names; not while a run is going on."""
        orphans = self.orphans()
        for name in orphans:
            self.folder.delete(name)
        return orphans


def _takes_the_place(ours: ShardTally, theirs: ShardDone, before: ShardDone | None) -> bool:
    """Return whether rows replace committed ones: see `RunFolder.commit`."""
    is_made_from_them = before is not None and before.attempt == theirs.attempt
    return is_made_from_them or ours.is_better_than(theirs.tally)


def _run_folder(uri: str) -> Folder:
    """Return a run's folder: others may have written in it, so no link below it is followed."""
    return Folder(uri, follow_links=False)


def check_free(folder: Folder) -> None:
    """Check that a run can begin in a folder; writes nothing.

    Raises:
        RunFolderError: it is a file, or holds files that are not a run's.
    """
    named = _OF_GENERATION.fullmatch(folder.uri)
    if named and Folder(named[1]).exists(RUN_FILE):
        raise RunFolderError(
            f"{folder.uri} names generation {named[2]} of the run {named[1]}, which no job can "
            "write: give the run itself (--out without @), or another output folder"
        )
    parent, name = uris.parent_and_name(folder.uri)
    if name and Folder(parent).exists(name):
        raise RunFolderError(f"{folder.uri} is a file: choose another output folder")
    ours = {MANIFEST_FILE, RUN_FILE}
    foreign = [name for name in folder.peek(20) if name not in ours and not name.startswith(".")]
    if foreign and folder.exists(RUN_FILE):
        return  # another job has begun the run since the caller looked
    if foreign and foreign[0].startswith(_FOLDERS):
        raise RunFolderError(
            f"{folder.uri} holds shards of a run whose {RUN_FILE} is gone ({foreign[0]}): delete "
            "the folder and give the command again, or choose another output folder"
        )
    if foreign:
        raise RunFolderError(
            f"{folder.uri} is not empty and not a run folder: it holds {foreign[0]}, but no "
            f"{RUN_FILE}; choose another output folder"
        )


def _begin(
    folder: Folder, identity: RunIdentity, images: pa.Table | manifest.PackedRows
) -> tuple[bool, str]:
    """Freeze the manifest, then write run.yaml, each created once; two drivers may do so at once.

    Returns:
        Whether this driver was first, and the SHA-256 of the manifest that it would write.

    Raises:
        RunFolderError: the folder holds something else, or another collection's manifest.
    """
    check_free(folder)
    is_packed = isinstance(images, manifest.PackedRows)
    parts = images.batches() if is_packed else images.to_batches()
    _protect_secrets(folder, (part["uri"] for part in parts))
    data = manifest.write_manifest(images, identity.source)
    ours, num_images = markers.bytes_sha256(data), images.num_rows
    if not identity.config.features_of:  # else another run has listed the images
        remember_manifest(ours, identity.config)
    sha256 = ours
    if not folder.create_once(MANIFEST_FILE, data):
        # Another driver is beginning the same run now, or one was killed between the two files.
        data = folder.read_bytes(MANIFEST_FILE, _MAX_MANIFEST_BYTES)
        table = manifest.read_manifest(data)
        if manifest.source_of(table) != identity.source:
            raise RunFolderError(
                f"{folder.uri} holds the manifest of another collection (a run that was never "
                f"begun): delete {MANIFEST_FILE} there or choose another output folder"
            )
        sha256, num_images = markers.bytes_sha256(data), table.num_rows
    info = describe_run(identity, sha256, num_images)
    return folder.create_once(RUN_FILE, info.to_yaml()), ours


def _protect_secrets(folder: Folder, addresses: Iterable[pa.Array | pa.ChunkedArray]) -> None:
    """Keep others out of a local run folder whose images have addresses that hold secrets.

    The tables must have these addresses as they are, since the images are read by them again.
    """
    may_hold = (
        text
        for part in addresses
        for text in part.filter(compute.match_substring_regex(part, _MAY_HOLD_SECRETS)).to_pylist()
    )
    if not any(map(holds_secret, may_hold)):
        return
    if uris.scheme(folder.uri):
        consequence = "whoever may read this place can use them"
    else:
        make_private(folder.uri)
        consequence = "nobody but you may look into this folder"
    logger.warning(
        "%s: the addresses of images hold tokens or signatures, which the run must keep to read "
        "the images again: %s",
        folder.uri,
        consequence,
    )
