"""`ovseg import-review`: a tool's corrected masks become the reviewed layer of a run.

A mask equal to a predicted segment was accepted; one that stems from a segment (by the tool's note,
the label or the place) was changed; one without was added; a segment that no mask stems from was
rejected. The predictions stay as they are.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ovseg_core import parts
from pipeline import uris
from pipeline.importers._tool import ToolImage
from pipeline.predictions import Predictions, Row
from pipeline.review_matching import Drawn, joined, match, overlap
from pipeline.review_names import ImageNames, LabelNames
from pipeline.reviewed import store
from pipeline.rundir import RunDir
from pipeline.storage import Folder
from schemas.base import Frozen
from schemas.errors import UserError
from schemas.review import ReviewedImage, ReviewedMask

log = logging.getLogger(__name__)

PACKAGE = "pipeline.importers"


class LabelReview(Frozen):
    """What people did to one label."""

    name: str
    predicted: int
    """Segments of the label in the reviewed images."""
    accepted: int
    changed: int
    """Outline or label."""
    rejected: int
    added: int
    """Masks of the label that nothing was predicted for."""
    iou: float | None
    """Of predicted and corrected pixels, over all reviewed images; None: neither has any."""
    minutes: float | None
    """Time of the images, shared evenly among the labels in each; None: the tool does not tell."""

    @property
    def accepted_share(self) -> float | None:
        """Share of the predicted segments that were left as they are."""
        return self.accepted / self.predicted if self.predicted else None


class ImportReport(Frozen):
    """What an import brought."""

    source: str
    labels: tuple[LabelReview, ...]
    num_images: int
    num_images_with_time: int
    minutes: float
    num_turned: int
    """Images whose masks were turned: the tool ignores EXIF."""
    num_unknown: int
    """Images left out: the run has none of their names."""
    num_wrong_size: int
    """Images left out: of another size than the run's."""
    num_other_regions: int
    """Boxes, points and such, left out."""
    unknown_labels: dict[str, int]
    """Masks left out by a label that the run does not have."""


def import_review(run: RunDir, tool: str, uri: str) -> ImportReport:
    """Read a tool's file and add it to the reviewed layer.

    Args:
        run: the run that was exported to the tool.
        tool: an importer's name.
        uri: the file, a path or URL.

    Raises:
        ConfigError: no such importer.
        UserError: no such file, one of another format, or without any image of the run.
    """
    importer = parts.load(PACKAGE, tool.replace("-", "_"))
    reading = _Reading(run, source=f"{tool}: {uris.redact(uri)}")
    for image in importer.read(_bytes(uri)):
        reading.add(image)
    return reading.finish()


@dataclass
class _Counts:
    predicted: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    intersection: int = 0
    union: int = 0
    seconds: float = 0.0
    has_time: bool = False


class _Reading:
    """An import on its way."""

    def __init__(self, run: RunDir, source: str) -> None:
        job = run.info.job()
        self._run = run
        self._source = source
        self._one_a_label = job.masks.segments == "class"
        self._labels = LabelNames(job.vocabulary.names)
        self._names = ImageNames(run)
        self._predictions = Predictions(run)
        self._images: dict[str, ReviewedImage] = {}
        self._masks: dict[str, list[ReviewedMask]] = {}
        self._unknown_images: list[str] = []
        self._unknown_labels: Counter[str] = Counter()
        self._left = Counter(wrong_size=0, turned=0, regions=0)
        self._counts = {name: _Counts() for name in self._labels.names}

    def add(self, image: ToolImage) -> None:
        """Take an image; its masks replace those of the same image earlier in the file."""
        image_id = self._names.find(image.names)
        row = None if image_id is None else self._predictions.image(image_id)
        if image_id is None or row is None:
            self._unknown_images.append(image.names[0] if image.names else "?")
            return
        drawn = self._drawn(image, row)
        if drawn is None:
            return
        self._left["regions"] += image.num_left_out
        predicted = self._predictions.segments(image_id)
        drawn = joined(drawn) if self._one_a_label else drawn
        masks = match(image_id, predicted, drawn, self._labels.names)
        stemmed = {mask.segment_index for mask in masks}
        self._masks[image_id] = masks
        self._images[image_id] = ReviewedImage(
            image_id=image_id,
            path=row["path"],
            source=self._source,
            seconds=image.seconds,
            num_rejected=sum(segment["segment_index"] not in stemmed for segment in predicted),
        )

    def _drawn(self, image: ToolImage, row: Row) -> list[Drawn] | None:
        """Return the masks in the run's terms; None: they are of another size."""
        size_hw = row["height"], row["width"]
        turn = 1
        if image.masks and image.size_hw != size_hw:
            turn = row["exif_orientation"]
            if image.size_hw != size_hw[::-1] or turn < _FIRST_SIDEWAYS:
                self._left["wrong_size"] += 1
                log.warning(
                    "%s left out: %d x %d in the file, %d x %d in the run",
                    row["path"], *image.size_hw[::-1], *size_hw[::-1],
                )  # fmt: skip
                return None
            self._left["turned"] += 1
        drawn = []
        for mask in image.masks:
            category_id = self._labels.find(mask.label)
            if category_id is None:
                self._unknown_labels[mask.label] += 1
                continue
            drawn.append(Drawn(category_id, upright(mask.pixels, turn), mask.segment_index))
        return drawn

    def finish(self) -> ImportReport:
        """Store what was read and sum it up."""
        if not self._images:
            raise UserError(
                f"the file has no reviewed image of the run: {len(self._unknown_images)} have "
                f"names that the run does not know ({', '.join(self._unknown_images[:3])}), "
                f"{self._left['wrong_size']} another size"
            )
        for image_id, image in self._images.items():
            self._count(image, self._masks[image_id])
        masks = (mask for found in self._masks.values() for mask in found)
        store(self._run, self._source, self._images.values(), masks)
        seconds = [image.seconds for image in self._images.values() if image.seconds is not None]
        return ImportReport(
            source=self._source,
            labels=tuple(_label(name, counts) for name, counts in self._counts.items()),
            num_images=len(self._images),
            num_images_with_time=len(seconds),
            minutes=sum(seconds) / 60,
            num_turned=self._left["turned"],
            num_unknown=len(self._unknown_images),
            num_wrong_size=self._left["wrong_size"],
            num_other_regions=self._left["regions"],
            unknown_labels=dict(self._unknown_labels),
        )

    def _count(self, image: ReviewedImage, masks: Sequence[ReviewedMask]) -> None:
        predicted = self._predictions.segments(image.image_id)
        row = self._predictions.image(image.image_id)
        assert row is not None
        before, after = _by_label(predicted), _by_label([mask.model_dump() for mask in masks])
        fate = {m.segment_index: m.verdict for m in masks if m.segment_index is not None}
        for segment in predicted:
            counts = self._counts[segment["label"]]
            counts.predicted += 1
            counts.verdicts[fate.get(segment["segment_index"], "rejected")] += 1
        for mask in masks:
            self._counts[mask.label].verdicts["added"] += mask.verdict == "added"
        present = before.keys() | after.keys()
        for label in present:
            counts = self._counts[label]
            size_hw = row["height"], row["width"]
            shared, union = overlap(before.get(label, []), after.get(label, []), size_hw)
            counts.intersection += shared
            counts.union += union
            if image.seconds is not None:
                counts.seconds += image.seconds / len(present)
                counts.has_time = True


_FIRST_SIDEWAYS = 5
"""EXIF orientations from here on exchange height and width."""


def upright(pixels: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    """Return a mask (H, W) of the stored frame as it is displayed under an EXIF orientation."""
    turns = {
        2: lambda mask: mask[:, ::-1],
        3: lambda mask: mask[::-1, ::-1],
        4: lambda mask: mask[::-1],
        5: lambda mask: mask.T,
        6: lambda mask: np.rot90(mask, -1),
        7: lambda mask: mask[::-1, ::-1].T,
        8: lambda mask: np.rot90(mask),
    }
    return np.ascontiguousarray(turns.get(orientation, lambda mask: mask)(pixels))


def _by_label(rows: Iterable[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row["rle_counts"])
    return found


def _label(name: str, counts: _Counts) -> LabelReview:
    return LabelReview(
        name=name,
        predicted=counts.predicted,
        accepted=counts.verdicts["accepted"],
        changed=counts.verdicts["changed"],
        rejected=counts.verdicts["rejected"],
        added=counts.verdicts["added"],
        iou=counts.intersection / counts.union if counts.union else None,
        minutes=counts.seconds / 60 if counts.has_time else None,
    )


def _bytes(uri: str) -> bytes:
    folder, name = uris.parent_and_name(uris.normalise(uri))
    try:
        return Folder(folder).read_bytes(name)
    except FileNotFoundError as error:
        raise UserError(f"no review at {uris.redact(uri)}: there is no such file") from error
