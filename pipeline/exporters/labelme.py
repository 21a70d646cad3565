"""labelme: a JSON of mask shapes for each image, `a/b.json` for `a/b.jpg`.

labelme looks for a JSON beside its photograph: copy one of the two to the other, or have the
photographs copied here. An export overwrites; corrections belong in another folder.
"""

import base64
import json
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pipeline.exporters.shared import segments
from pipeline.exporters.shared.export import Export, ExportOptions, png_bytes
from pipeline.exporters.shared.segments import DIGITS, Crop, SegmentKind
from pipeline.run.file_names import FileNames
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row
from schemas.records import Share
from schemas.score_columns import SCORE

FOLDER = "exports/labelme"
FILES = r".+\.json"
_VERSION = "6.3.1"
"""The version of labelme that opened these files."""
_DOCUMENTS = "JSON files"
_DECIDED = {"changed": "changed by a person", "added": "added by a person"}
_NOT_HELD = ("scores to sort by: the description of a mask has its score, but no list is sorted",)


class Options(ExportOptions):
    """Options of the labelme exporter."""

    min_score: Share = 0.0
    """Segments with a lower score are left out."""
    segments: SegmentKind = "as_run"
    """What a mask is: `as_run`, `class` (one for each label and image) or `components`, which have
    a `group_id` if they are of one mask of the run."""
    copy_images: bool = False
    """Copy the photographs beside the JSON files, so that labelme opens the folder as it is."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write a file for each image; return their folder, which labelme opens."""
    title = "labelme: what it does not hold of this run"
    with Export(run, FOLDER, options, title, _NOT_HELD) as export:
        names = FileNames(run, export.losses.name_lost)
        export.losses.count_written(_DOCUMENTS, 0)
        for image, rows in export.images(options.segments, options.min_score):
            name = names.of_image(image["path"])
            export.put(f"{name}.json", partial(_document, image, rows))
            export.losses.count_written(_DOCUMENTS)
            if options.copy_images:
                export.copy_image(image["path"], image)
        export.remove(f"{name}.json" for name in names.unused())
        if options.copy_images:
            export.remove(names.unused_paths())
    return [FOLDER]


def _document(image: Row, rows: list[Row]) -> bytes:
    document = {
        "version": _VERSION,
        "flags": {},
        "shapes": [_shape(*pair) for pair in zip(rows, segments.crops(rows), strict=True)],
        "imagePath": PurePosixPath(image["path"]).name,
        "imageData": None,
        "imageHeight": image["height"],
        "imageWidth": image["width"],
        "reviewPriority": round(image["review_priority"], DIGITS),
    }
    return (json.dumps(document) + "\n").encode("ascii")


def _shape(row: Row, crop: Crop) -> dict[str, Any]:
    height, width = crop.mask.shape
    corners = [[crop.left, crop.top], [crop.left + width - 1, crop.top + height - 1]]
    return {
        "label": row["label"],
        "points": corners,
        "group_id": row.get("part_of"),
        "description": _DECIDED.get(row.get("verdict", ""), f"score {row[SCORE]:.6f}"),
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(png_bytes(crop.mask)).decode("ascii"),
    }
