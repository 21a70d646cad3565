"""COCO: `instances.json` for tools and training, `results_segm.json` for COCOeval.

Both are written shard by shard, so memory does not grow with the collection. With `max_bytes` they
are split into `instances-00001.json` and so on, each a complete COCO file of some of the images.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from pipeline.exporters.shared import coco_file, segments
from pipeline.exporters.shared.coco_check import ExpectedCoco, ExportProblem, coco_problems
from pipeline.exporters.shared.coco_records import CocoAnnotation
from pipeline.exporters.shared.corrected_run import CorrectedRun
from pipeline.exporters.shared.export import Export, ExportOptions
from pipeline.exporters.shared.label_answers import AnswerReader
from pipeline.exporters.shared.loss_report import GOOD_IOU, LOSSES_FILE, LossReport
from pipeline.exporters.shared.outlines import Simplification, Tolerance, coco_polygons
from pipeline.exporters.shared.segments import DIGITS, SegmentKind
from pipeline.run.file_names import flat_name
from pipeline.run.folder import RunFolder
from pipeline.run.tables.answers import UNSURE_FROM
from schemas.records import Share

logger = logging.getLogger(__name__)

FOLDER = "exports/coco"
FILES = r"(?:instances|results_segm)(?:-\d{5})?\.json"
_OUR_FILES = re.compile(r"(instances|results_segm)(-[0-9]{5,})?[.]json")
_MAX_LABELS = 100
"""Of a run whose answers are written without being asked for: 2,000 labels are 9 kB an image."""
_END_BYTES = 32
"""No less than the end of a file takes."""


class Options(ExportOptions):
    """Options of the COCO exporter."""

    min_score: Share = 0.0
    """Segments with a lower score (mean probability of the label under the mask) are left out."""
    segments: SegmentKind = "as_run"
    """What a mask is: `as_run`, `class` (one for each label and image) or `components` (connected
    regions, which are not instances)."""
    min_area_px: NonNegativeInt = 0
    """Segments with fewer pixels are left out, after splitting or joining."""
    polygons: bool = False
    """Polygons instead of RLE, one for each connected region; they have no holes."""
    tolerance_px: Tolerance = 1.0
    """Greatest distance in pixels of a polygon from its mask; 0: exact apart from holes."""
    min_iou: Share = 0.99
    """Polygons whose IoU with their mask (without holes) would be lower get more corners."""
    flatten_names: bool = False
    """Names without folders, `a/b.jpg` as `a__b.jpg`, for tools that know only base names."""
    label_answers: bool | None = None
    """LVIS's `neg_category_ids` (labels that an image does not show) and
    `not_exhaustive_category_ids` (labels with masks left out) of each image; null: for at most 100
    labels."""
    unsure_from: Share = UNSURE_FROM
    """A label without a segment is not among the absent ones if it has this probability at any
    pixel."""
    max_bytes: NonNegativeInt = 0
    """Start another file before this size is exceeded; 0: one file."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write the files and return their paths in the run folder."""
    simplification = Simplification(options.tolerance_px, options.min_iou)
    with Export(run, FOLDER, options, "COCO: what it does not hold of this run") as export:
        files, number = _SplitFiles(export, options), 0
        answers = _answer_reader(export.reader, options)
        images = export.images(options.segments, options.min_score, options.min_area_px)
        for image, rows in images:
            annotations, results = [], []
            crops = segments.crops(rows) if options.polygons else ()
            for row, crop in zip_longest(rows, crops):
                number += 1
                entry = coco_file.annotation_entry(number, image["coco_id"], row)
                text = json.dumps(entry)
                results.append(_result(text, entry))
                if crop is not None:
                    polygons = coco_polygons(row, crop, simplification, export.losses)
                    entry["segmentation"] = polygons.corners
                    entry["area"], entry["bbox"] = polygons.area_px, polygons.bbox_xywh
                    attributes = entry.setdefault("attributes", {})
                    attributes["polygon_iou"] = round(polygons.iou, DIGITS)
                    text = json.dumps(entry)
                annotations.append(text)
            path = image["path"]
            image_entry = coco_file.image_entry(image, path)
            if options.flatten_names:
                image_entry["file_name"], image_entry["path"] = flat_name(path), path
            if answers is not None:
                told = answers.of(image, rows)
                image_entry["neg_category_ids"] = told.absent
                image_entry["not_exhaustive_category_ids"] = told.not_exhaustive
            files.add(json.dumps(image_entry), annotations, results)
        written = files.close()
        export.upload(written)
        names = [file.name for file in written]
        export.remove_matching(_OUR_FILES, keep=names)
    if not number:
        logger.warning("no segments: results_segm.json is an empty list, which loadRes refuses")
    if export.losses.num_poor_outlines:
        logger.warning(
            "%d polygons have an IoU under %s with their mask: see %s/%s",
            export.losses.num_poor_outlines, GOOD_IOU, FOLDER, LOSSES_FILE,
        )  # fmt: skip
    return [f"{FOLDER}/{name}" for name in names]


def check_files(
    reader: CorrectedRun, options: Options, files: Sequence[Path]
) -> Iterator[ExportProblem]:
    """Yield what in the files of an export is not what the same options would write now.

    Args:
        reader: the run as it is, with the masks that the export has.
        options: of the export.
        files: local copies of all its files.
    """
    head = coco_file.head(reader, options.segments)
    of_run = {"fingerprint": head["info"]["fingerprint"], "categories": head["categories"]}
    expected = ExpectedCoco(of_run, _expected_entries(reader, options))
    kinds: dict[str, list[Path]] = {"instances": [], "results_segm": []}
    for file in sorted(files):
        kinds[file.name.partition("-")[0].removesuffix(".json")].append(file)
    yield from coco_problems(expected, kinds["instances"], kinds["results_segm"])


def _expected_entries(
    reader: CorrectedRun, options: Options
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield each image with its annotations; of polygons without their shape."""
    losses, number = LossReport("", options), 0
    keys = ["id", "image_id", "category_id"]
    if not options.polygons:
        keys += ["segmentation", "area", "bbox"]
    images = segments.images(
        reader, losses, options.segments, options.min_score, options.min_area_px
    )
    for image, rows in images:
        annotations = []
        for row in rows:
            number += 1
            entry: dict[str, Any] = {**coco_file.annotation_entry(number, image["coco_id"], row)}
            annotations.append({key: entry[key] for key in keys})
        path = image["path"]
        entry = {**coco_file.image_entry(image, flat_name(path) if options.flatten_names else path)}
        yield {key: entry[key] for key in ("id", "file_name", "width", "height")}, annotations


def _answer_reader(reader: CorrectedRun, options: Options) -> AnswerReader | None:
    wanted = options.label_answers
    if wanted is None:
        wanted = len(reader.run.info.job().vocabulary.names) <= _MAX_LABELS
    return AnswerReader(reader, options.unsure_from) if wanted else None


def _result(text: str, entry: CocoAnnotation) -> str:
    """Return a segment's entry for COCOeval: what stands before its area, and its score.

    Run lengths are long, and are written as JSON once.

    Args:
        text: the whole entry as JSON; neither numbers nor run lengths hold a quotation mark.
        entry: the same.
    """
    begin = text.index('"image_id"')
    end = text.index(', "area": ')
    return f'{{{text[begin:end]}, "score": {json.dumps(entry.get("score"))}}}'


class _SplitFiles:
    """The local files: one of each kind, or with `max_bytes` several."""

    def __init__(self, export: Export, options: Options) -> None:
        self._export = export
        self._max_bytes = options.max_bytes
        self._head = coco_file.head(export.reader, options.segments, min_score=options.min_score)
        self._files: list[Path] = []
        self._begin()

    def _begin(self) -> None:
        suffix = f"-{len(self._files) // 2 + 1:05d}.json" if self._max_bytes else ".json"
        dataset, results = (
            self._export.local_file(f"{kind}{suffix}") for kind in ("instances", "results_segm")
        )
        self._files += [dataset, results]
        open_files = self._export.open_files
        self._dataset = coco_file.CocoFile(dataset, self._head, open_files)
        self._results = open_files.enter_context(coco_file.open_ascii(results))
        self._results.write("[")
        self._separator = "\n"

    def add(self, image: str, annotations: list[str], results: list[str]) -> None:
        """Append an image, all given as JSON; an image is never split, even if it is too large."""
        if self._max_bytes and self._dataset.num_images:
            size = len(image) + sum(map(len, annotations)) + 2 * len(annotations) + _END_BYTES
            if self._dataset.num_bytes + size > self._max_bytes:
                self._end()
                self._begin()
        self._dataset.add_json(image, annotations)
        for result in results:
            self._results.write(self._separator + result)
            self._separator = ",\n"

    def _end(self) -> None:
        self._dataset.close()
        self._results.write("\n]\n")
        self._results.close()

    def close(self) -> list[Path]:
        """End the last files and return all."""
        self._end()
        return self._files
