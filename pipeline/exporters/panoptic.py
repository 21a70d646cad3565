"""COCO panoptic: `panoptic.json` and a picture of segment numbers for each image.

A pixel's number is red + 256 green + 65536 blue, 0 where nothing was found. Masks of a run never
overlap, so that nothing has to be flattened.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovseg_core.rle import label_map
from pipeline.collection.overlay import colour
from pipeline.exporters.shared import coco_file, segments
from pipeline.exporters.shared.files import Files, png
from pipeline.exporters.shared.losses import LossReport
from pipeline.exporters.shared.segments import DIGITS, Segments, cut_of
from pipeline.run.file_names import FileNames
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from schemas.base import Frozen
from schemas.records import Share
from schemas.score_columns import SCORE

FOLDER = "exports/panoptic"
_PICTURES = "panoptic"
_JSON = "panoptic.json"
_NEVER = ("review scores but `score` of each segment and `review_priority` of each image",)


class Options(Frozen):
    """Options of the panoptic exporter."""

    min_score: Share = 0.0
    """Segments with a lower score are left out: their pixels count as not found."""
    segments: Segments = "as_run"
    """How masks are cut: `as_run`, `class` (one for each label and image: stuff) or `components`
    (connected regions, written as things, although touching objects are one)."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write all pictures, then the JSON, and return its path."""
    finished = RunReader(run)
    losses = LossReport("COCO panoptic: what it does not hold of this run", _NEVER)
    place = run.folder.child(FOLDER)
    losses.begin(place, options, _JSON)
    with tempfile.TemporaryDirectory(prefix="ovseg-panoptic-") as folder, ExitStack() as open_files:
        document = coco_file.CocoFile(Path(folder, _JSON), _head(finished, options), open_files)
        with Files(place) as files:
            write(finished, options, losses, document, files)
        document.close()
        place.put_file(_JSON, document.path)
    losses.write(place)
    return [f"{FOLDER}/{_JSON}"]


def write(
    finished: RunReader,
    options: Options,
    losses: LossReport,
    document: coco_file.CocoFile,
    files: Files,
) -> None:
    """Write every image's entry and picture."""
    names = FileNames(finished.run, losses.lost)
    for image, rows in segments.images(finished, losses, options.segments, options.min_score):
        name = f"{names.of_image(image['path'])}.png"
        files.put(f"{_PICTURES}/{name}", partial(_picture, image, rows))
        entry = {
            "image_id": image["number"],
            "file_name": name,
            "segments_info": [_segment(number, row) for number, row in enumerate(rows, start=1)],
        }
        document.add(coco_file.image(image, image["path"]), [entry])
    files.remove_old(f"{_PICTURES}/{name}.png" for name in names.unused())


def _head(finished: RunReader, options: Options) -> dict[str, Any]:
    is_thing = cut_of(finished, options.segments) == "components"
    return {
        "info": coco_file.info(finished, options.segments, min_score=options.min_score),
        "licenses": [],
        "categories": [
            {**category, "isthing": int(is_thing), "color": colour(category["id"])}
            for category in coco_file.categories(finished)
        ],
    }


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
    numbers = label_map.paint(counts, range(1, len(rows) + 1), size_hw, np.uint32)
    bytes_HW4 = numbers.astype("<u4").view(np.uint8).reshape(*size_hw, 4)
    return png(np.asarray(cv2.cvtColor(bytes_HW4, cv2.COLOR_RGBA2BGR), np.uint8))
