"""labelme: a JSON of mask shapes for each image, `a/b.json` for `a/b.jpg`.

labelme looks for a JSON beside its photograph: copy one of the two to the other, or have the
photographs copied here. An export overwrites; corrections belong into another folder.
"""

import base64
import json
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pipeline.collection.image_source import ref_of
from pipeline.exporters.shared import segments
from pipeline.exporters.shared.files import Files, png
from pipeline.exporters.shared.losses import LossReport
from pipeline.exporters.shared.segments import DIGITS, Crop, Segments
from pipeline.run.file_names import FileNames
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader
from schemas.base import Frozen
from schemas.records import Share
from schemas.score_columns import SCORE

FOLDER = "exports/labelme"
_VERSION = "6.3.1"
"""Of the labelme that these files were opened with."""
_NEVER = (
    "scores that can be sorted by: the description of a mask tells its score, no list is ordered",
)


class Options(Frozen):
    """Options of the labelme exporter."""

    min_score: Share = 0.0
    """Segments with a lower score are left out."""
    segments: Segments = "as_run"
    """How masks are cut: `as_run`, `class` (one for each label and image) or `components`, whose
    `group_id` tells which are of one mask."""
    copy_images: bool = False
    """Copy the photographs beside the JSON files, so that labelme opens the folder as it is."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write all files; return the path of LOSSES.txt, which is written last."""
    finished = RunReader(run)
    losses = LossReport("labelme: what it does not hold of this run", _NEVER)
    names = FileNames(run, losses.lost)
    place = run.folder.child(FOLDER)
    losses.begin(place, options)
    with Files(place) as files:
        for image, rows in segments.images(finished, losses, options.segments, options.min_score):
            files.put(f"{names.of_image(image['path'])}.json", partial(_document, image, rows))
            if options.copy_images:
                files.copy_image(image["path"], ref_of(image), run.info.job().image.max_bytes)
        files.remove_old(f"{name}.json" for name in names.unused())
    if files.num_unreadable:
        losses.lost("photographs that cannot be read any more", files.num_unreadable)
    losses.write(place)
    return [f"{FOLDER}/LOSSES.txt"]


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
        "description": f"score {row[SCORE]:.6f}",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(png(crop.mask)).decode("ascii"),
    }
