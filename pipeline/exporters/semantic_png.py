"""One label image for each image, as semantic segmentation is trained: `labels/a/b.png`.

Grey, one channel, values from 0 in vocabulary order, 255 where nothing was found. Vocabularies of
more labels than 8 bits hold get 16 bits and 65535.
"""

import json
from functools import partial
from typing import Any

import numpy as np

from pipeline.exporters.shared import segments
from pipeline.exporters.shared.files import Files, png
from pipeline.exporters.shared.losses import LossReport
from pipeline.run.file_names import FileNames
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader, paint
from schemas.base import Frozen
from schemas.records import Share

FOLDER = "exports/semantic_png"
_LABELS = "labels"
_NEVER = (
    "scores and review priorities",
    "which region a pixel belongs to: regions of one label are one",
)


class Options(Frozen):
    """Options of the label images."""

    min_score: Share = 0.0
    """Segments with a lower score are left out: their pixels count as not found."""
    background: bool = False
    """Where nothing was found the value is 0, and labels count from 1 (as `ovseg evaluate --truth`
    reads them); else labels count from 0, and such pixels are 255, which training ignores."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write all label images, then `classes.json`, and return the latter's path."""
    finished = RunReader(run)
    losses = LossReport("Label images: what they do not hold of this run", _NEVER)
    classes = _classes(finished, options)
    names = FileNames(run, losses.lost)
    place = run.folder.child(FOLDER)
    losses.begin(place, options, "classes.json")
    with Files(place) as files:
        for image, rows in segments.images(finished, losses, min_score=options.min_score):
            name = f"{_LABELS}/{names.of_image(image['path'])}.png"
            files.put(name, partial(_picture, image, rows, options.background, classes["bits"]))
        files.remove_old(f"{_LABELS}/{name}.png" for name in names.unused())
    place.atomic_write("classes.json", (json.dumps(classes, indent=1) + "\n").encode())
    losses.write(place)
    return [f"{FOLDER}/classes.json"]


def _picture(image: Row, rows: list[Row], background: bool, bits: int) -> bytes:
    labels = paint(rows, (image["height"], image["width"]))
    if not background:
        labels -= np.uint16(1)  # 0, nothing found, becomes the highest number
    return png(labels.astype(np.uint8) if bits == 8 else labels)


def _classes(finished: RunReader, options: Options) -> dict[str, Any]:
    names = finished.run.info.job().vocabulary.names
    listed = ["background", *names] if options.background else list(names)
    bits = 8 if len(listed) < 256 else 16
    return {"classes": listed, "ignore": 2**bits - 1, "bits": bits}
