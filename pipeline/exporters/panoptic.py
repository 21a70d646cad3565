"""COCO panoptic: `panoptic.json` and a picture of segment numbers for each image.

A pixel's number is red + 256 green + 65536 blue, 0 where nothing was found. Of instances that
overlap the one with the higher score is on top, of masks that people drew the smaller one; what
they hide is counted.
"""

from functools import partial
from typing import Any

import cv2
import numpy as np

from ovseg_core.images.label_colours import label_colours
from ovseg_core.rle import label_map
from pipeline.exporters.shared import coco_file
from pipeline.exporters.shared.export import Export, ExportOptions, png_bytes
from pipeline.exporters.shared.segments import DIGITS, SegmentKind, flattened, resolve_kind
from pipeline.run.file_names import FileNames
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row
from schemas.records import Share
from schemas.score_columns import SCORE

FOLDER = "exports/panoptic"
FILES = r"panoptic\.json|panoptic/.+\.png"
_PICTURES = "panoptic"
_JSON = "panoptic.json"
_NOT_HELD = ("score columns except `score` of each segment and `review_priority` of each image",)


class Options(ExportOptions):
    """Options of the panoptic exporter."""

    min_score: Share = 0.0
    """Segments with a lower score are left out: their pixels count as not found."""
    segments: SegmentKind = "as_run"
    """What a segment is: `as_run` (instances are things), `class` (one for each label and image:
    stuff) or `components` (connected regions, written as things, although objects that touch are
    one)."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write all pictures, then the JSON, and return its path."""
    title = "COCO panoptic: what it does not hold of this run"
    with Export(run, FOLDER, options, title, _NOT_HELD, index=_JSON) as export:
        write(export, options)
    return [f"{FOLDER}/{_JSON}"]


def write(export: Export, options: Options) -> None:
    """Write every image's picture and entry, then the JSON."""
    names = FileNames(export.reader.run, export.losses.name_lost)
    head = _head(export, options)
    dataset = coco_file.CocoFile(export.local_file(_JSON), head, export.open_files)
    for image, overlapping in export.images(options.segments, options.min_score):
        rows = flattened(overlapping, export.losses)
        name = f"{names.of_image(image['path'])}.png"
        export.put(f"{_PICTURES}/{name}", partial(_picture, image, rows))
        entry = {
            "image_id": image["coco_id"],
            "file_name": name,
            "segments_info": [_segment(number, row) for number, row in enumerate(rows, start=1)],
        }
        dataset.add(coco_file.image_entry(image, image["path"]), [entry])
    export.remove(f"{_PICTURES}/{name}.png" for name in names.unused())
    export.upload([dataset.close()])


def _head(export: Export, options: Options) -> dict[str, Any]:
    is_thing = resolve_kind(export.reader, options.segments) != "class"
    head = coco_file.head(export.reader, options.segments, min_score=options.min_score)
    colours = label_colours([category["name"] for category in head["categories"]])
    categories = [
        {**category, "isthing": int(is_thing), "color": colour}
        for category, colour in zip(head["categories"], colours, strict=True)
    ]
    return {**head, "categories": categories}


def _segment(number: int, row: Row) -> dict[str, Any]:
    return {
        "id": number,
        "category_id": row["category_id"],
        "area": row["area_px"],
        "bbox": [int(value) for value in row["bbox_xywh"]],
        "iscrowd": 0,
        "score": round(row[SCORE], DIGITS),
    }


def _picture(image: Row, rows: list[Row]) -> bytes:
    size_hw = image["height"], image["width"]
    counts = [row["rle_counts"] for row in rows]
    numbers = label_map.paint_label_map(counts, range(1, len(rows) + 1), size_hw, np.uint32)
    bytes_HW4 = numbers.astype("<u4").view(np.uint8).reshape(*size_hw, 4)
    return png_bytes(np.asarray(cv2.cvtColor(bytes_HW4, cv2.COLOR_RGBA2BGR), np.uint8))
