"""The parts of COCO's JSON, and a file of them that is streamed.

What readers of COCO need, and often do not get: string counts, `iscrowd` 0, ids from 1, area and
box of the mask, images without segments. The text is ASCII, because many readers open it without
an encoding.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from pipeline.exporters.shared.coco_records import CocoAnnotation, CocoCategory, CocoImage
from pipeline.exporters.shared.segments import DIGITS, Segments, cut_of, is_cut_anew
from pipeline.run.reader import Row, RunReader
from schemas.score_columns import SCORE, SCORE_COLUMNS

_ATTRIBUTES = (
    "segment_index",
    "part_of",
    *(name for name, column in SCORE_COLUMNS.items() if column.attribute),
)
_MASKS = {
    "class": "semantic masks: one for each label and image; they are not instances, touching or "
    "scattered objects of one label share a mask",
    "components": "connected regions of semantic masks; they are not instances, touching objects "
    "of one label share a region and a divided object has several",
}
_SCORE = "mean probability of the label under the mask"
_SCORE_OF_WHOLE = (
    "mean probability of the label under the whole mask of the label in the image; "
    "attributes.part_of tells which, and all other scores are of it too"
)


def info(finished: RunReader, segments: Segments = "as_run", **more: Any) -> dict[str, Any]:
    """Return COCO's `info`: what the masks are and which images are missing."""
    run = finished.run.info
    job = run.job()
    cut = cut_of(finished, segments)
    divided = cut == "components" and is_cut_anew(finished, segments)
    return {
        "description": "Pseudo-labels drawn by a model and checked by nobody",
        "version": run.versions.get("ovseg", ""),
        "masks": _MASKS[cut],
        "frame": "EXIF orientation is applied: masks fit the image as it is displayed",
        "score": _SCORE_OF_WHOLE if divided else _SCORE,
        "method": job.method.name,
        "fingerprint": run.fingerprint,
        **more,
        "num_failed_images": sum(finished.errors.values()),
        "failed_images": finished.errors,
        "num_images_left": finished.num_left,
    }


def categories(finished: RunReader) -> list[CocoCategory]:
    """Return the run's labels, ids from 1 in vocabulary order."""
    names = finished.run.info.job().vocabulary.names
    return [
        {"id": number, "name": name, "supercategory": ""}
        for number, name in enumerate(names, start=1)
    ]


def image(row: Row, file_name: str) -> CocoImage:
    """Return an image's entry."""
    return {
        "id": row["number"],
        "file_name": file_name,
        "width": row["width"],
        "height": row["height"],
        "exif_orientation": row["exif_orientation"],
        "review_priority": round(row["review_priority"], DIGITS),
    }


def annotation(number: int, image_number: int, row: Row) -> CocoAnnotation:
    """Return a segment's entry.

    Args:
        number: the annotation's id.
        image_number: the image's id.
        row: of the annotations table.
    """
    return {
        "id": number,
        "image_id": image_number,
        "category_id": row["category_id"],
        "segmentation": {"size": [row["height"], row["width"]], "counts": row["rle_counts"]},
        "area": row["area_px"],
        "bbox": row["bbox_xywh"],
        "iscrowd": 0,
        "score": round(row[SCORE], DIGITS),
        "attributes": {
            name: round(row[name], DIGITS) if isinstance(row[name], float) else row[name]
            for name in _ATTRIBUTES
            if name in row
        },
    }


def create(path: Path) -> TextIO:
    """Open a local file for ASCII that is the same on every system."""
    return path.open("w", encoding="ascii", newline="\n")


def before_images(head: dict[str, Any]) -> str:
    """Return how a file begins: everything but `images` and `annotations`."""
    return json.dumps(head)[:-1] + ', "images": ['


BEFORE_ANNOTATIONS = '\n], "annotations": ['
END = "\n]}\n"


class CocoFile:
    """A local COCO file written image by image; memory does not grow.

    Annotations wait in a file beside it, because readers expect the images first.
    """

    def __init__(self, path: Path, head: dict[str, Any], open_files: ExitStack) -> None:
        """Begin a file.

        Args:
            path: where; the folder is for temporary files.
            head: everything but `images` and `annotations`.
            open_files: closes what is open after an error.
        """
        self.path = path
        self._waiting = path.with_suffix(".annotations")
        self._images = open_files.enter_context(create(path))
        self._annotations = open_files.enter_context(create(self._waiting))
        self.num_bytes = self._images.write(before_images(head))
        self.num_images = 0
        self._first = True

    def add(self, image: Any, annotations: Sequence[Any]) -> None:
        """Append an image and its annotations."""
        self.add_texts(json.dumps(image), [json.dumps(entry) for entry in annotations])

    def add_texts(self, image: str, annotations: Sequence[str]) -> None:
        """Do the same with JSON."""
        self.num_bytes += self._images.write((",\n" if self.num_images else "\n") + image)
        self.num_images += 1
        for text in annotations:
            self.num_bytes += self._annotations.write(("\n" if self._first else ",\n") + text)
            self._first = False

    def close(self) -> None:
        """Put the two together."""
        self._images.write(BEFORE_ANNOTATIONS)
        self._images.close()
        self._annotations.write(END)
        self._annotations.close()
        with self.path.open("ab") as target, self._waiting.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
        self._waiting.unlink()
