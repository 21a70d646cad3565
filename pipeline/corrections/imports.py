"""The imports of a run: stored whole, listed, taken back.

    reviewed/imports/NAME.json           the marker of an import, written last
    reviewed/imports/NAME-images-0.parquet, NAME-masks-0.parquet, ...    the files in the marker
    reviewed/imports/NAME.undone.json    the import was taken back; its files stay

A later import of an image replaces an earlier one, as long as it is not taken back. One of an image
that has changed since (`ovseg annotate --update`) counts no more.
"""

import math
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pydantic import ValidationError

from pipeline.corrections.log import Skipped, latest_us
from pipeline.run.folder import RunFolder
from pipeline.run.markers import MAX_TABLE_BYTES, bytes_sha256, marker_json
from pipeline.run.reader import Row, grouped
from pipeline.run.tables.damaged import check_masks
from pipeline.storage import parquet
from pipeline.storage.folder import Folder
from schemas.base import Frozen, Model, problems
from schemas.errors import RunFolderError, UserError
from schemas.records import FileEntry
from schemas.review import (
    REVIEWED_IMAGES,
    REVIEWED_MASKS,
    Prefer,
    ReviewedImage,
    ReviewedMask,
    ReviewImport,
    ReviewPart,
    ReviewUndo,
)

IMPORTS = "reviewed/imports"
CALIBRATION = "reviewed/calibration.json"
"""What `ovseg calibrate` learns from the review; an import that is taken back leaves it."""
_UNDONE = ".undone.json"
FILES = r"[0-9]{19}-[0-9a-f]{8}(?:\.json|\.undone\.json|-(?:images|masks)-\d+\.parquet)"
"""Pattern of the names in the folder."""
_NAME = re.compile(r"[0-9]{19}-[0-9a-f]{8}")
_MAX_MARKER_BYTES = 16 << 20
_IMAGES_PER_PART = 4096
_ROW_GROUP = 4096
_PARTS_IN_MEMORY = 4
_CHECKED = ["image_id", "height", "width", "rle_counts"]
_CHECKED_SCHEMA = pa.schema([REVIEWED_MASKS.field(name) for name in _CHECKED])


class ImportEntry(Frozen):
    """One import as it is listed."""

    id: str
    """What `--undo` takes."""
    at_s: float
    source: str
    num_images: int
    num_masks: int
    num_replaced: int
    """Images of it that a later import has replaced, or that have changed since."""
    undone_at_s: float | None
    """When it was taken back; None: it counts."""


class ImportState(NamedTuple):
    """What an import means for the decisions on an image.

    Attributes:
        since_s: decisions of the review page until then do not count, in Unix seconds.
        is_complete: whether the image counts as reviewed, with nothing unknown.
    """

    since_s: float
    is_complete: bool


def store_import(
    run: RunFolder,
    source: str,
    images: Iterable[ReviewedImage],
    masks: Iterable[ReviewedMask],
    prefer: Prefer = "file",
    unlisted_labels: Sequence[str] = (),
) -> str:
    """Write an import into the run folder, all of it or nothing, and return its id.

    Args:
        run: the run that was reviewed; its predictions are not changed.
        source: tool or file.
        images: the reviewed images, also those without masks; one or more.
        masks: the masks of these images.
        prefer: what counts of an image that was decided on the review page before.
        unlisted_labels: labels of the run that the file does not list.
    """
    folder = run.folder.child(IMPORTS)
    # Of the images as they are now, whatever the clock of the machine says that updated the run.
    replaced_s = max(run.replaced_s.values(), default=0.0)
    at_s = max(time.time(), math.nextafter(replaced_s, math.inf))
    identity = secrets.token_hex(4)
    # Behind every import that counts now, whatever the clocks say.
    last_us = max((_time_us(name) for name in Imports(run).markers), default=0)
    name = f"{max(round(at_s * 1e6), last_us + 1):019d}-{identity}"
    by_image: dict[str, list[ReviewedMask]] = {}
    for mask in masks:
        by_image.setdefault(mask.image_id, []).append(mask)
    rest, parts = iter(images), []
    while chosen := list(islice(rest, _IMAGES_PER_PART)):
        found = [mask for image in chosen for mask in by_image.get(image.image_id, ())]
        end = f"{len(parts)}.parquet"
        parts.append(
            ReviewPart(
                images=_write(folder, f"{name}-images-{end}", chosen, REVIEWED_IMAGES),
                masks=_write(folder, f"{name}-masks-{end}", found, REVIEWED_MASKS),
            )
        )
    marker = ReviewImport(
        source=source,
        at_s=at_s,
        prefer=prefer,
        unlisted_labels=tuple(unlisted_labels),
        parts=tuple(parts),
    )
    folder.atomic_write(f"{name}.json", marker_json(marker))
    return identity


def list_imports(run: RunFolder) -> list[ImportEntry]:
    """Return all imports of a run, the first one first, also those that were taken back.

    Raises:
        RunFolderError: one is damaged.
    """
    imports = Imports(run)
    left = imports.num_images_of_import()
    entries = []
    for name, marker in imports.markers.items():
        undone = imports.undone.get(name)
        num_images = sum(part.images.num_rows for part in marker.parts)
        entries.append(
            ImportEntry(
                id=_id(name),
                at_s=marker.at_s,
                source=marker.source,
                num_images=num_images,
                num_masks=sum(part.masks.num_rows for part in marker.parts),
                num_replaced=0 if undone else num_images - left.get(name, 0),
                undone_at_s=undone.at_s if undone else None,
            )
        )
    return entries


def _id(name: str) -> str:
    return name.rpartition("-")[2]


def undo_import(run: RunFolder, identity: str) -> ImportEntry:
    """Take an import back: images have again what an earlier import or the review page says.

    Nothing is deleted, so a reader at the same time sees the import or sees it taken back.

    Args:
        run: the run.
        identity: the import's id.

    Raises:
        UserError: no such import, or it is taken back already.
    """
    entries = list_imports(run)
    entry = next((entry for entry in entries if entry.id == identity), None)
    if entry is None:
        known = ", ".join(entry.id for entry in entries if entry.undone_at_s is None)
        raise UserError(f"the run has no import {identity!r}; its imports: {known or 'none'}")
    if entry.undone_at_s is not None:
        raise UserError(f"the import {identity} is taken back already; to have it, import again")
    imports = Imports(run)
    name = next(name for name in imports.markers if name.endswith(f"-{identity}"))
    undo = ReviewUndo(at_s=time.time())
    run.folder.child(IMPORTS).atomic_write(f"{name}{_UNDONE}", marker_json(undo))
    return entry.model_copy(update={"undone_at_s": undo.at_s})


def undone_since(calibration: Path) -> list[str]:
    """Return the imports, by id, that were taken back after a calibration was written.

    Args:
        calibration: a local file; only where `ovseg calibrate` puts it, imports lie beside it.
    """
    file = calibration.absolute()
    folder = file.parents[len(Path(CALIBRATION).parts) - 1] / IMPORTS
    if not file.match(CALIBRATION) or not folder.is_dir():
        return []
    written_s = file.stat().st_mtime
    undone = sorted(folder.glob(f"*{_UNDONE}"))
    late = (one.name for one in undone if one.stat().st_mtime > written_s)
    return [_id(name.removesuffix(_UNDONE)) for name in late]


def import_states(run: RunFolder) -> dict[str, ImportState]:
    """Return the state of every imported image. Neither masks nor decisions are read."""
    imports = Imports(run)
    return {image_id: imports.state(image_id) for image_id in imports.images()}


def import_names(run: RunFolder) -> list[str]:
    """Return the names of all markers; a new name means a new import, or one taken back."""
    return [name for name in run.folder.list(IMPORTS) if name.endswith(".json")]


class Imports:
    """The last import of each image of a run; those that were taken back do not count.

    Raises:
        RunFolderError: an import is damaged.

    Attributes:
        markers: of all imports by name, in their order.
        undone: those that were taken back, by name.
        outdated: images that have changed since they were imported.
    """

    def __init__(self, run: RunFolder) -> None:
        self._folder = run.folder.child(IMPORTS)
        self._parts: dict[str, tuple[str, ReviewPart]] = {}
        self._images: dict[str, ReviewedImage] = {}
        self._entries: dict[str, FileEntry] = {}
        self._read_masks = lru_cache(_PARTS_IN_MEMORY)(self._masks_of_part)
        self._labels = run.info.job().vocabulary.names
        self._replaced_s = run.replaced_s
        self.outdated: set[str] = set()
        self._skipped = Skipped(self._folder.uri)
        names = [name for name in self._folder.list() if self._is_marker(name)]
        self.markers = {
            name.removesuffix(".json"): self._read(name, ReviewImport)
            for name in names
            if not name.endswith(_UNDONE)
        }
        self.undone = {
            name.removesuffix(_UNDONE): self._read(name, ReviewUndo)
            for name in names
            if name.endswith(_UNDONE)
        }
        for name, marker in self.markers.items():
            if name not in self.undone:
                self._add(name, marker)
        self._skipped.tell()

    @property
    def skipped(self) -> dict[str, str]:
        """Why imports, and single rows of them, do not count, by name."""
        return dict(self._skipped.reasons)

    def _is_marker(self, file: str) -> bool:
        """Return whether a file is the marker of an import until now; note others that look so."""
        if not file.endswith(".json"):
            return False
        name = file.removesuffix(_UNDONE).removesuffix(".json")
        if not _NAME.fullmatch(name):
            self._skipped.add(file, "not the name of an import")
            return False
        if _time_us(name) > latest_us():
            self._skipped.add(file, "its name is more than a day ahead of the clock")
            return False
        return True

    def state(self, image_id: str) -> ImportState:
        """Return what the import of an image means for the decisions on it."""
        replaced_s = self._replaced_s.get(image_id, -1.0)
        if image_id not in self._parts:
            return ImportState(replaced_s, is_complete=False)
        image = self._images[image_id]
        marker = self.markers[self._parts[image_id][0]]
        return ImportState(max(marker.since_s(image), replaced_s), is_complete=image.is_complete)

    def images(self) -> dict[str, ReviewedImage]:
        """Return the imported images by `image_id`."""
        return dict(self._images)

    def image(self, image_id: str) -> ReviewedImage | None:
        """Return an imported image; None: it was not imported."""
        return self._images.get(image_id)

    def import_id(self, image_id: str) -> str:
        """Return the id of an image's last import, as it is listed; empty: it was not imported."""
        return _id(self._parts[image_id][0]) if image_id in self._parts else ""

    def unlisted_labels(self, image_id: str) -> tuple[str, ...]:
        """Return the labels that the imported file of an image does not list."""
        if image_id not in self._parts:
            return ()
        return self.markers[self._parts[image_id][0]].unlisted_labels

    def masks(self, image_id: str) -> tuple[ReviewedMask, ...]:
        """Return the imported masks of an image."""
        if image_id not in self._parts:
            return ()
        name = self._parts[image_id][1].masks.name
        rows = enumerate(self._read_masks(name).get(image_id, ()), 1)
        masks = [self._mask(f"{name}, {image_id}, {place}", row) for place, row in rows]
        self._skipped.tell()
        return tuple(mask for mask in masks if mask is not None)

    def _mask(self, name: str, row: Row) -> ReviewedMask | None:
        """Return a stored mask; None: it cannot be one of the run, which is noted."""
        try:
            mask = ReviewedMask.model_validate(row)
        except ValidationError as error:
            self._skipped.add(name, problems(error)[0])
            return None
        labels = self._labels
        if mask.category_id > len(labels) or labels[mask.category_id - 1] != mask.label:
            shown = f"{mask.label[:80]!r}, category {mask.category_id}"
            self._skipped.add(name, f"{shown} is not a label of the run")
            return None
        return mask

    def num_images_of_import(self) -> dict[str, int]:
        """Return the number of images whose last import it is, by the import's name."""
        names = (name for name, _ in self._parts.values())
        return dict(Counter(names))

    def _read(self, name: str, kind: type[Model]) -> Model:
        try:
            return kind.model_validate_json(self._folder.read_bytes(name, _MAX_MARKER_BYTES))
        except ValidationError as error:
            raise RunFolderError(
                f"{self._folder.uri}/{name} is damaged: delete it and import the review again"
            ) from error

    def _add(self, name: str, marker: ReviewImport) -> None:
        if marker.at_s > latest_us() / 1e6:
            self._skipped.add(name, "its time is more than a day ahead of the clock")
            return
        for place, part in enumerate(marker.parts):
            expected = f"{name}-images-{place}.parquet", f"{name}-masks-{place}.parquet"
            if (part.images.name, part.masks.name) != expected:
                raise RunFolderError(
                    f"{self._folder.uri}/{name}.json names files of another import: delete it and "
                    "import the review again"
                )
            self._entries[part.masks.name] = part.masks
            rows = enumerate(_read_table(self._folder, part.images).to_pylist(), 1)
            for number, row in rows:
                try:
                    image = ReviewedImage.model_validate(row)
                except ValidationError as error:
                    self._skipped.add(f"{part.images.name}, row {number}", problems(error)[0])
                    continue
                if marker.at_s <= self._replaced_s.get(image.image_id, -1.0):
                    self.outdated.add(image.image_id)
                    continue
                self._images[image.image_id] = image
                self._parts[image.image_id] = name, part

    def _masks_of_part(self, name: str) -> dict[str, list[Row]]:
        """Return the rows of a file of masks by image; of damaged ones it is noted what is wrong.

        Run lengths reach native code later, and anybody may have written the file.
        """
        table = _read_table(self._folder, self._entries[name])
        try:
            checked = table.select(_CHECKED).cast(_CHECKED_SCHEMA)
        except (KeyError, pa.ArrowException) as error:
            raise RunFolderError(
                f"{self._folder.uri}/{name} is damaged: import the review again ({error})"
            ) from error
        # Whether it is also the size of its image, the layer knows.
        sizes = {row["image_id"]: row for row in checked.drop_columns(["rle_counts"]).to_pylist()}
        checked, damaged = check_masks(checked, sizes)
        rows = table.to_pylist()
        for row, counts in zip(rows, checked.column("rle_counts").to_pylist(), strict=True):
            row["rle_counts"] = counts
        for place, problem in damaged.items():
            self._skipped.add(f"{name}, row {place + 1}", problem)
        sound = (row for place, row in enumerate(rows) if place not in damaged)
        return grouped(sound, "image_id")


def _time_us(name: str) -> int:
    return int(name.partition("-")[0])


def _write(folder: Folder, name: str, records: Sequence[Frozen], schema: pa.Schema) -> FileEntry:
    table = pa.Table.from_pylist([record.model_dump() for record in records], schema=schema)
    data = parquet.write_table(table, _ROW_GROUP)
    folder.atomic_write(name, data)
    return FileEntry(
        name=name, num_rows=table.num_rows, sha256=bytes_sha256(data), size_bytes=len(data)
    )


def _read_table(folder: Folder, entry: FileEntry) -> pa.Table:
    try:
        data = folder.read_bytes(entry.name, MAX_TABLE_BYTES)
        if bytes_sha256(data) == entry.sha256:
            return parquet.read_table(data)
    except (FileNotFoundError, OSError, ValueError, pa.ArrowException):
        pass
    raise RunFolderError(
        f"{folder.uri}/{entry.name} is missing or damaged: delete the import's .json file and "
        "import the review again"
    )
