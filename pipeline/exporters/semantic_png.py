"""One label image for each image, as semantic segmentation is trained: `labels/a/b.png`.

Grey, one channel, values from 0 in vocabulary order, 255 where nothing was found. Vocabularies of
more labels than 8 bits hold get 16 bits and 65535.
"""

import json
from functools import partial
from typing import Any

import numpy as np

from pipeline.exporters.shared.export import Export, ExportOptions, png_bytes
from pipeline.exporters.shared.segments import flattened
from pipeline.run.file_names import FileNames
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader, paint_segments
from schemas.records import Share
from schemas.vocabulary import BACKGROUND

FOLDER = "exports/semantic_png"
FILES = r"classes\.json|labels/.+\.png"
_LABELS, _CLASSES = "labels", "classes.json"
_NOT_HELD = (
    "scores and review priorities",
    "components and instances: all pixels of a label are one mask",
)


class Options(ExportOptions):
    """Options of the label images."""

    min_score: Share = 0.0
    """Segments with a lower score are left out: their pixels count as not found."""
    background: bool = False
    """Where nothing was found the value is 0, and labels count from 1; else they count from 0, and
    such pixels are 255, which training ignores."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write all label images, then `classes.json`, and return the latter's path."""
    title = "Label images: what they do not hold of this run"
    with Export(run, FOLDER, options, title, _NOT_HELD, index=_CLASSES) as export:
        classes = _classes(export.reader, options)
        names = FileNames(run, export.losses.name_lost)
        for image, rows in export.images(min_score=options.min_score):
            name = f"{_LABELS}/{names.of_image(image['path'])}.png"
            visible = flattened(rows, export.losses)
            export.put(name, partial(_picture, image, visible, options.background, classes["bits"]))
        export.remove(f"{_LABELS}/{name}.png" for name in names.unused())
        export.write(_CLASSES, (json.dumps(classes, indent=1) + "\n").encode())
    return [f"{FOLDER}/{_CLASSES}"]


def _picture(image: Row, rows: list[Row], background: bool, bits: int) -> bytes:
    labels = paint_segments(rows, (image["height"], image["width"]))
    if not background:
        labels -= np.uint16(1)  # 0, nothing found, becomes the highest number
    return png_bytes(labels.astype(np.uint8) if bits == 8 else labels)


def _classes(reader: RunReader, options: Options) -> dict[str, Any]:
    names = reader.run.info.job().vocabulary.names
    listed = [BACKGROUND, *names] if options.background else list(names)
    bits = 8 if len(listed) < 256 else 16
    return {"classes": listed, "ignore": 2**bits - 1, "bits": bits}
