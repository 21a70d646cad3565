"""`ovseg import-review`: read a tool's corrected masks into the reviewed layer of a run.

A mask that equals a predicted segment was accepted. A mask that comes from a segment (the tool's
file names it, or by label or place) was changed. A mask without a segment was added. A segment
without a mask was rejected. The predictions are not changed.
"""

import logging
from collections import Counter

from ovseg_core.rle.coco_segmentation import encode_mask
from pipeline.collection.exif import swaps_sides, upright_mask
from pipeline.corrections.import_report import ImportReport, Tally
from pipeline.corrections.imports import store_import
from pipeline.corrections.matching import (
    CorrectedMask,
    match,
    merge_by_label,
    split_into_components,
)
from pipeline.corrections.names import LabelNames, match_names
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

logger = logging.getLogger(__name__)

PACKAGE = "pipeline.importers"


def import_review(run: RunFolder, tool: str, uri: str) -> ImportReport:
    """Read a tool's file and add it to the reviewed layer.

    Args:
        run: the run that was exported to the tool.
        tool: an importer's name.
        uri: the file, a path or URL.

    Raises:
        ConfigError: no such importer.
        UserError: the file is missing, has another format, or has no image of the run.
    """
    importer = plugins.load(PACKAGE, tool.replace("-", "_"))
    importing = _Import(run, source=f"{tool}: {redact(uri)}")
    importing.find(list(importer.read(_read_file(uri))))
    return importing.finish()


class _Import:
    """One import: find each image in the run, compare its masks, store them, count."""

    def __init__(self, run: RunFolder, source: str) -> None:
        job = run.info.job()
        self._run = run
        self._source = source
        self._one_per_label = job.masks.segments == "class"
        self._labels = LabelNames(job.vocabulary.names)
        self._predictions = Predictions(run)
        self._found: dict[str, ToolImage] = {}
        self._images: list[ReviewedImage] = []
        self._masks: list[ReviewedMask] = []
        self._unknown_images: list[str] = []
        self._unknown_labels: Counter[str] = Counter()
        self._left_out = Counter(wrong_size=0, turned=0, regions=0, repeated=0)
        self._tally = Tally(self._labels.names)

    def find(self, images: list[ToolImage]) -> None:
        """Find the images of the file in the run; if several are the same, the last one counts."""
        table = self._run.manifest()
        paths, ids = (table.column(name).to_pylist() for name in ("path", "image_id"))
        id_of_path = dict(zip(paths, ids, strict=True))
        matches = match_names(paths, [image.names for image in images])
        for image, found in zip(images, matches.found, strict=True):
            if found is None:
                self._unknown_images.append(image.names[0] if image.names else "?")
                continue
            image_id = id_of_path[found.path]
            if image_id in self._found:
                self._left_out["repeated"] += 1
                logger.warning(
                    "%s is in the file more than once: the masks of one are left out", found.path
                )
            self._found[image_id] = image

    def finish(self) -> ImportReport:
        """Compare the images with the predictions, in the run's order, and store the import."""
        for image_id in self._predictions.in_order(self._found):
            self._add(image_id, self._found.pop(image_id))
        if not self._images:
            raise UserError(self._why_empty())
        store_import(self._run, self._source, self._images, self._masks)
        seconds = [image.seconds for image in self._images if image.seconds is not None]
        return ImportReport(
            source=self._source,
            labels=self._tally.labels(),
            num_images=len(self._images),
            num_images_with_time=len(seconds),
            minutes=sum(seconds) / 60,
            num_turned=self._left_out["turned"],
            num_unknown=len(self._unknown_images),
            num_repeated=self._left_out["repeated"],
            num_wrong_size=self._left_out["wrong_size"],
            num_other_regions=self._left_out["regions"],
            unknown_labels=dict(self._unknown_labels),
        )

    def _why_empty(self) -> str:
        unknown, wrong_size = self._unknown_images, self._left_out["wrong_size"]
        if not unknown and not wrong_size:
            return "the file has no reviewed image: none of its images has an annotation to import"
        names = f" ({', '.join(unknown[:3])})" if unknown else ""
        return (
            f"the file has no reviewed image of the run: {len(unknown)} have a name that no "
            f"annotated image of the run has{names}, {wrong_size} have another size"
        )

    def _add(self, image_id: str, image: ToolImage) -> None:
        row = self._predictions.image(image_id)
        if row is None:  # failed, or not annotated yet
            self._unknown_images.append(image.names[0])
            return
        corrected = self._corrected_masks(image, row)
        if corrected is None:
            return
        self._left_out["regions"] += image.num_left_out
        predicted = self._predictions.segments(image_id)
        size_hw = row["height"], row["width"]
        if self._one_per_label:
            corrected = merge_by_label(corrected, size_hw)
        else:
            corrected = split_into_components(corrected, predicted, size_hw)
        masks = match(row, predicted, corrected, self._labels.names)
        kept = {mask.segment_index for mask in masks}
        self._masks += masks
        self._images.append(
            ReviewedImage(
                image_id=image_id,
                path=row["path"],
                source=self._source,
                seconds=image.seconds,
                num_rejected=sum(segment["segment_index"] not in kept for segment in predicted),
            )
        )
        self._tally.add(row, predicted, masks, image.seconds)

    def _corrected_masks(self, image: ToolImage, row: Row) -> list[CorrectedMask] | None:
        """Return an image's masks in the run's labels and frame; None: they have another size."""
        size_hw = row["height"], row["width"]
        turn = 1
        if image.size_hw not in (None, size_hw):
            turn = row["exif_orientation"]
            if image.size_hw != size_hw[::-1] or not swaps_sides(turn):
                self._left_out["wrong_size"] += 1
                logger.warning(
                    "%s left out: %d x %d in the file, %d x %d in the run",
                    row["path"], *image.size_hw[::-1], *size_hw[::-1],
                )  # fmt: skip
                return None
            self._left_out["turned"] += 1
        corrected: list[CorrectedMask] = []
        for mask in image.masks:
            category_id = self._labels.find(mask.label)
            if category_id is None:
                self._unknown_labels[mask.label] += 1
                continue
            counts = mask.rle_counts if turn == 1 else encode_mask(upright_mask(mask.pixels, turn))
            corrected.append(CorrectedMask(category_id, counts, mask.segment_index))
        return corrected


def _read_file(uri: str) -> bytes:
    folder, name = uris.parent_and_name(uris.normalise(uri))
    if not name:
        raise UserError(f"{redact(uri)} is a folder: expected the file that the tool exported")
    try:
        return Folder(folder).read_bytes(name)
    except FileNotFoundError as error:
        raise UserError(f"{redact(uri)}: there is no such file") from error
