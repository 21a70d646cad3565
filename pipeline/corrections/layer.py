"""The reviewed layer of a run: the corrected masks, beside the predictions.

    reviewed/log/                        decisions of the review page, see `log`
    reviewed/imports/NAME.json           the marker of an import, written last
    reviewed/imports/NAME-images-0.parquet, NAME-masks-0.parquet, ...    the files in the marker

A later import of an image replaces an earlier one. A decision made after the import replaces the
imported mask of a segment by the predicted one, or removes it.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice

import pyarrow as pa
from pydantic import ValidationError

from pipeline.corrections.log import ReviewLog
from pipeline.run.folder import RunFolder
from pipeline.run.markers import bytes_sha256, marker_json
from pipeline.run.predictions import Predictions
from pipeline.run.reader import Row, grouped
from pipeline.storage import parquet
from pipeline.storage.folder import Folder
from schemas.base import Frozen
from schemas.errors import RunFolderError
from schemas.records import FileEntry
from schemas.review import (
    REVIEWED_IMAGES,
    REVIEWED_MASKS,
    ReviewDecision,
    ReviewedImage,
    ReviewedMask,
    ReviewImport,
    ReviewKey,
    ReviewPart,
)

IMPORTS = "reviewed/imports"
LOG_SOURCE = "log"
"""`ReviewedImage.source` of images that were reviewed on the review page."""
_IMAGES_PER_PART = 4096
_ROW_GROUP = 4096
_PARTS_IN_MEMORY = 4


def store_import(
    run: RunFolder, source: str, images: Iterable[ReviewedImage], masks: Iterable[ReviewedMask]
) -> None:
    """Write an import into the run folder, all of it or nothing.

    Args:
        run: the run that was reviewed; its predictions are not changed.
        source: tool or file.
        images: the reviewed images, also those without masks.
        masks: the masks of these images.
    """
    folder = run.folder.child(IMPORTS)
    at_s = time.time()
    name = f"{round(at_s * 1e6):019d}-{secrets.token_hex(4)}"
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
    if parts:
        marker = ReviewImport(source=source, at_s=at_s, parts=tuple(parts))
        folder.atomic_write(f"{name}.json", marker_json(marker))


class ReviewedLayer:
    """The corrections of a run as they were when the layer was made; masks are read at first use.

    Args:
        run: at any place.
        log: of the run, if it was read already.

    Raises:
        RunFolderError: an import or the log is damaged.

    Attributes:
        images: the images that count as reviewed, by `image_id`, in the run's order: imported,
            decided as a whole, or with every segment decided.
    """

    def __init__(self, run: RunFolder, log: ReviewLog | None = None) -> None:
        self._imports = _Imports(run)
        self._predictions = Predictions(run)
        names = run.info.job().vocabulary.names
        self._category_id = {name: number for number, name in enumerate(names, start=1)}
        self._decisions: dict[str, dict[ReviewKey, ReviewDecision]] = {}
        for key, decision in (log or ReviewLog(run)).current().items():
            if decision.at_s > self._imports.at_s(key.image_id):
                self._decisions.setdefault(key.image_id, {})[key] = decision
        images = self._imports.images() | self._decided()
        self.images = {key: images[key] for key in self._predictions.in_order(images)}

    def masks(self, image_id: str) -> tuple[ReviewedMask, ...]:
        """Return the corrected masks of a reviewed image."""
        imported = self._imports.masks(image_id)
        if image_id not in self._decisions:
            return imported
        decided = self._decided_masks(image_id, self._predictions.segments(image_id))
        kept = [mask for mask in imported if mask.segment_index not in decided]
        return (*kept, *(mask for mask in decided.values() if mask is not None))

    def size_hw(self, image_id: str) -> tuple[int, int]:
        """Return the size of a reviewed image, as a person sees it."""
        image = self._predictions.image(image_id)
        if image is None:
            raise KeyError(f"{image_id} is not an annotated image of the run")
        return image["height"], image["width"]

    def predicted(self, image_id: str) -> list[Row]:
        """Return the predicted segments of an image, also of one that is not reviewed."""
        return self._predictions.segments(image_id)

    def partly_reviewed(self) -> list[str]:
        """Return the images with some but not all segments decided, in the run's order."""
        partly = (image_id for image_id in self._decisions if image_id not in self.images)
        return self._predictions.in_order(partly)

    def outcomes(self, image_id: str) -> dict[int, ReviewedMask | None] | None:
        """Return the corrected mask of each predicted segment, by its index; None: rejected.

        Of an image that is only partly reviewed the decided segments are returned.

        Returns:
            None: nothing was decided or imported for this image.
        """
        rows = self._predictions.segments(image_id)
        if image_id not in self.images:
            return self._decided_masks(image_id, rows) if image_id in self._decisions else None
        outcomes: dict[int, ReviewedMask | None] = {row["segment_index"]: None for row in rows}
        for mask in self.masks(image_id):
            if mask.segment_index is not None:
                outcomes[mask.segment_index] = mask
        return outcomes

    def _decided(self) -> dict[str, ReviewedImage]:
        """Return the images that are reviewed, or changed after an import, by the log."""
        found: dict[str, ReviewedImage] = {}
        for image_id in self._predictions.in_order(self._decisions):
            decisions = self._decisions[image_id]
            image = self._predictions.image(image_id)
            if image is None:
                continue  # not annotated
            rows = self._predictions.segments(image_id)
            decided = self._decided_masks(image_id, rows)
            imported = self._imports.image(image_id)
            whole = decisions.get(ReviewKey(image_id))
            if imported is not None:
                left = {mask.segment_index for mask in self.masks(image_id)}
                gone = sum(row["segment_index"] not in left for row in rows)
                found[image_id] = imported.model_copy(update={"num_rejected": gone})
            elif (rows and len(decided) == len(rows)) or (whole and whole.action != "skip"):
                gone = sum(mask is None for mask in decided.values())
                found[image_id] = ReviewedImage(
                    image_id=image_id, path=image["path"], source=LOG_SOURCE, num_rejected=gone
                )
        return found

    def _decided_masks(self, image_id: str, rows: list[Row]) -> dict[int, ReviewedMask | None]:
        """Return the mask of each segment that the log decides, by its index; None: rejected."""
        decisions = self._decisions[image_id]
        decided: dict[int, ReviewedMask | None] = {}
        for row in rows:
            decision = _decision_on(row, decisions)
            if decision is not None:
                decided[row["segment_index"]] = self._mask(row, decision)
        return decided

    def _mask(self, row: Row, decision: ReviewDecision) -> ReviewedMask | None:
        if decision.action == "reject":
            return None
        label = decision.new_label or row["label"]
        changes = {
            "label": label,
            "category_id": self._category_id[label],
            "verdict": "accepted" if label == row["label"] else "changed",
        }
        fields = {name: row[name] for name in row if name in ReviewedMask.model_fields}
        return ReviewedMask.model_validate({**fields, **changes})


def imported_at_s(run: RunFolder) -> dict[str, float]:
    """Return when each imported image was imported last, in Unix seconds.

    Earlier decisions on it do not count. Neither masks nor decisions are read.
    """
    imports = _Imports(run)
    return {image_id: imports.at_s(image_id) for image_id in imports.images()}


def import_names(run: RunFolder) -> list[str]:
    """Return the names of all imports; a new name means a new import."""
    return [name for name in run.folder.list(IMPORTS) if name.endswith(".json")]


class _Imports:
    """The last import of each image of a run."""

    def __init__(self, run: RunFolder) -> None:
        self._folder = run.folder.child(IMPORTS)
        self._parts: dict[str, tuple[ReviewImport, ReviewPart]] = {}
        self._images: dict[str, ReviewedImage] = {}
        self._entries: dict[str, FileEntry] = {}
        self._read_masks = lru_cache(_PARTS_IN_MEMORY)(self._masks_of_part)
        for name in self._folder.list():
            if name.endswith(".json"):
                self._add(name)

    def _add(self, name: str) -> None:
        try:
            marker = ReviewImport.model_validate_json(self._folder.read_bytes(name))
        except ValidationError as error:
            raise RunFolderError(
                f"{self._folder.uri}/{name} is damaged: delete it and import the review again"
            ) from error
        for part in marker.parts:
            self._entries[part.masks.name] = part.masks
            for row in _read(self._folder, part.images).to_pylist():
                image = ReviewedImage.model_validate(row)
                self._images[image.image_id] = image
                self._parts[image.image_id] = marker, part

    def at_s(self, image_id: str) -> float:
        """Return when an image was imported, in Unix seconds; -1: never."""
        return self._parts[image_id][0].at_s if image_id in self._parts else -1.0

    def images(self) -> dict[str, ReviewedImage]:
        return dict(self._images)

    def image(self, image_id: str) -> ReviewedImage | None:
        return self._images.get(image_id)

    def masks(self, image_id: str) -> tuple[ReviewedMask, ...]:
        if image_id not in self._parts:
            return ()
        rows = self._read_masks(self._parts[image_id][1].masks.name).get(image_id, ())
        return tuple(ReviewedMask.model_validate(row) for row in rows)

    def _masks_of_part(self, name: str) -> dict[str, list[Row]]:
        return grouped(_read(self._folder, self._entries[name]).to_pylist(), "image_id")


def _decision_on(row: Row, decisions: dict[ReviewKey, ReviewDecision]) -> ReviewDecision | None:
    """Return the decision on a segment: its own, else its label's, else the image's."""
    image_id, label, index = row["image_id"], row["label"], row["segment_index"]
    for key in (
        ReviewKey(image_id, label, index),
        ReviewKey(image_id, label),
        ReviewKey(image_id),
    ):
        decision = decisions.get(key)
        if decision is not None and decision.action != "skip":
            return decision
    return None


def _write(folder: Folder, name: str, records: Sequence[Frozen], schema: pa.Schema) -> FileEntry:
    table = pa.Table.from_pylist([record.model_dump() for record in records], schema=schema)
    data = parquet.write_table(table, _ROW_GROUP)
    folder.atomic_write(name, data)
    return FileEntry(
        name=name, num_rows=table.num_rows, sha256=bytes_sha256(data), size_bytes=len(data)
    )


def _read(folder: Folder, entry: FileEntry) -> pa.Table:
    try:
        data = folder.read_bytes(entry.name)
    except FileNotFoundError:
        data = b""
    if bytes_sha256(data) != entry.sha256:
        raise RunFolderError(
            f"{folder.uri}/{entry.name} is missing or damaged: delete the import's .json file and "
            "import the review again"
        )
    return parquet.read_table(data)
