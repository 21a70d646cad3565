"""`ovseg import-review`: a tool's corrected masks become the reviewed layer of a run.

A mask equal to a predicted segment was accepted; one that stems from a segment (by the tool's note,
the label or the place) was changed; one without was added; a segment that no mask stems from was
rejected. The predictions stay as they are.
"""

import logging
from collections import Counter

from ovseg_core.rle.coco_segmentation import packed
from pipeline.collection.exif import FIRST_SIDEWAYS, upright
from pipeline.corrections.import_report import ImportReport, Tally
from pipeline.corrections.layer import store
from pipeline.corrections.matching import Drawn, divided, joined, match
from pipeline.corrections.names import Found, ImageNames, LabelNames
from pipeline.importers.shared.tool_file import ToolImage
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from pipeline.run.reader import Row
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas import plugins
from schemas.errors import UserError
from schemas.redact import redact
from schemas.review import ReviewedImage, ReviewedMask

log = logging.getLogger(__name__)

PACKAGE = "pipeline.importers"


def import_review(run: RunFolder, tool: str, uri: str) -> ImportReport:
    """Read a tool's file and add it to the reviewed layer.

    Args:
        run: the run that was exported to the tool.
        tool: an importer's name.
        uri: the file, a path or URL.

    Raises:
        ConfigError: no such importer.
        UserError: no such file, one of another format, or without any image of the run.
    """
    importer = plugins.load(PACKAGE, tool.replace("-", "_"))
    reading = _Reading(run, source=f"{tool}: {redact(uri)}")
    for image in importer.read(_bytes(uri)):
        reading.find(image)
    return reading.finish()


class _Reading:
    """An import on its way."""

    def __init__(self, run: RunFolder, source: str) -> None:
        job = run.info.job()
        self._run = run
        self._source = source
        self._one_a_label = job.masks.segments == "class"
        self._labels = LabelNames(job.vocabulary.names)
        self._names = ImageNames(run)
        self._predictions = Predictions(run)
        self._found: dict[str, tuple[Found, ToolImage]] = {}
        self._images: list[ReviewedImage] = []
        self._masks: list[ReviewedMask] = []
        self._unknown_images: list[str] = []
        self._unknown_labels: Counter[str] = Counter()
        self._left = Counter(wrong_size=0, turned=0, regions=0, repeated=0)
        self._tally = Tally(self._labels.names)

    def find(self, image: ToolImage) -> None:
        """Take an image; of several for one of the run the nearest name counts, then the last."""
        found = self._names.find(image.names)
        if found is None:
            self._unknown_images.append(image.names[0] if image.names else "?")
            return
        before = self._found.get(found.image_id)
        if before is not None:
            self._left["repeated"] += 1
            log.warning(
                "%s and %s are one image of the run: the masks of one of them are left out",
                before[1].names[0], image.names[0],
            )  # fmt: skip
        if before is None or found.distance <= before[0].distance:
            self._found[found.image_id] = found, image

    def finish(self) -> ImportReport:
        """Compare with the predictions, in the run's order, store and sum up."""
        for image_id in self._predictions.in_order(self._found):
            self._add(image_id, self._found.pop(image_id)[1])
        if not self._images:
            raise UserError(self._nothing())
        store(self._run, self._source, self._images, self._masks)
        seconds = [image.seconds for image in self._images if image.seconds is not None]
        return ImportReport(
            source=self._source,
            labels=self._tally.labels(),
            num_images=len(self._images),
            num_images_with_time=len(seconds),
            minutes=sum(seconds) / 60,
            num_turned=self._left["turned"],
            num_unknown=len(self._unknown_images),
            num_repeated=self._left["repeated"],
            num_wrong_size=self._left["wrong_size"],
            num_other_regions=self._left["regions"],
            unknown_labels=dict(self._unknown_labels),
        )

    def _nothing(self) -> str:
        """Return why there is nothing to store."""
        strange, wrong_size = self._unknown_images, self._left["wrong_size"]
        if not strange and not wrong_size:
            return "nothing in the file is reviewed: no image of it has an annotation that counts"
        names = f" ({', '.join(strange[:3])})" if strange else ""
        return (
            f"the file has no reviewed image of the run: {len(strange)} have names of no annotated "
            f"image of the run{names}, {wrong_size} have another size"
        )

    def _add(self, image_id: str, image: ToolImage) -> None:
        row = self._predictions.image(image_id)
        if row is None:  # failed, or not annotated yet
            self._unknown_images.append(image.names[0])
            return
        drawn = self._drawn(image, row)
        if drawn is None:
            return
        self._left["regions"] += image.num_left_out
        predicted = self._predictions.segments(image_id)
        size_hw = row["height"], row["width"]
        drawn = joined(drawn, size_hw) if self._one_a_label else divided(drawn, predicted, size_hw)
        masks = match(row, predicted, drawn, self._labels.names)
        stemmed = {mask.segment_index for mask in masks}
        self._masks += masks
        self._images.append(
            ReviewedImage(
                image_id=image_id,
                path=row["path"],
                source=self._source,
                seconds=image.seconds,
                num_rejected=sum(segment["segment_index"] not in stemmed for segment in predicted),
            )
        )
        self._tally.add(row, predicted, masks, image.seconds)

    def _drawn(self, image: ToolImage, row: Row) -> list[Drawn] | None:
        """Return the masks in the run's terms; None: they are of another size."""
        size_hw = row["height"], row["width"]
        turn = 1
        if image.size_hw not in (None, size_hw):
            turn = row["exif_orientation"]
            if image.size_hw != size_hw[::-1] or turn < FIRST_SIDEWAYS:
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
            counts = mask.rle_counts if turn == 1 else packed(upright(mask.pixels, turn))
            drawn.append(Drawn(category_id, counts, mask.segment_index))
        return drawn


def _bytes(uri: str) -> bytes:
    folder, name = uris.parent_and_name(uris.normalise(uri))
    if not name:
        raise UserError(f"{redact(uri)} is no file: expected what the tool has exported")
    try:
        return Folder(folder).read_bytes(name)
    except FileNotFoundError as error:
        raise UserError(f"no review at {redact(uri)}: there is no such file") from error
