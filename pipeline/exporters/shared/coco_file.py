"""The entries of COCO's JSON, and a file of them that is written image by image.

Readers of COCO rely on: counts as text, `iscrowd` 0, ids from 1, area and box of the mask, images
without segments. The file is ASCII, because many readers open it without an encoding.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from pipeline.exporters.shared.coco_records import CocoAnnotation, CocoCategory, CocoImage
from pipeline.exporters.shared.corrected_run import CorrectedRun
from pipeline.exporters.shared.segments import DIGITS, SegmentKind, is_changed, resolve_kind
from pipeline.run.reader import Row, RunReader
from schemas.score_columns import SCORE, SCORE_COLUMNS

_ATTRIBUTES_OF_INSTANCES = (
    "segment_index",
    "part_of",
    "verdict",
    *(name for name, column in SCORE_COLUMNS.items() if column.attribute),
)
_ATTRIBUTES = tuple(
    name
    for name in _ATTRIBUTES_OF_INSTANCES
    if name not in SCORE_COLUMNS or not SCORE_COLUMNS[name].of_instances
)
_MASKS = {
    "class": "semantic masks: one for each label and image; they are not instances, touching or "
    "scattered objects of one label share a mask",
    "components": "connected regions of semantic masks; they are not instances, touching objects "
    "of one label share a region and a divided object has several",
    "instances": "instances: one mask for each object that was found; they may overlap",
}
_DESCRIPTION = {
    "predicted": "Pseudo-labels of a model, not checked by a person",
    "reviewed": "Masks that people checked; attributes.verdict says how",
    "merged": "Pseudo-labels of a model, corrected by people; those with attributes.verdict are "
    "checked by a person, the others are not",
}
_SCORE = "mean probability of the label under the mask"
_SCORE_OF_WHOLE = (
    "mean probability of the label under the whole mask of the label in the image; "
    "attributes.part_of is its segment_index, and all other scores are those of the whole mask too"
)
_SCORE_OF_PEOPLE = {"predicted": ""} | dict.fromkeys(
    ("reviewed", "merged"), "; 1 where a person changed or added the mask"
)


def info(reader: CorrectedRun, kind: SegmentKind = "as_run", **more: Any) -> dict[str, Any]:
    """Return COCO's `info`: what the masks are and how many images are missing.

    Args:
        reader: of the run.
        kind: of segments.
        more: further entries.
    """
    run = reader.run.info
    job = run.job()
    exported = resolve_kind(reader, kind)
    is_split = exported == "components" and is_changed(reader, kind)
    return {
        "description": _DESCRIPTION[reader.masks],
        "version": run.versions.get("ovseg", ""),
        "masks": _MASKS[exported],
        "frame": "EXIF orientation is applied: masks fit the image as it is displayed",
        "score": (_SCORE_OF_WHOLE if is_split else _SCORE) + _SCORE_OF_PEOPLE[reader.masks],
        "method": job.method.name,
        "fingerprint": run.fingerprint,
        **more,
        "num_failed_images": sum(reader.errors.values()),
        "failed_images": reader.errors,
        "num_images_left": reader.num_left,
    }


def head(reader: CorrectedRun, kind: SegmentKind, **more: Any) -> dict[str, Any]:
    """Return a whole file but `images` and `annotations`; see `info` for the arguments."""
    return {
        "info": info(reader, kind, **more),
        "licenses": [],
        "categories": categories(reader, kind),
    }


def categories(reader: RunReader, kind: SegmentKind = "as_run") -> list[CocoCategory]:
    """Return the run's labels, ids from 1 in vocabulary order; of instances they are things."""
    names = reader.run.info.job().vocabulary.names
    found: list[CocoCategory] = [
        {"id": number, "name": name, "supercategory": ""}
        for number, name in enumerate(names, start=1)
    ]
    if resolve_kind(reader, kind) == "instances":
        for category in found:
            category["isthing"] = 1
    return found


def image_entry(row: Row, file_name: str) -> CocoImage:
    """Return the entry of an image, a row of `images` with its number."""
    return {
        "id": row["coco_id"],
        "file_name": file_name,
        "width": row["width"],
        "height": row["height"],
        "exif_orientation": row["exif_orientation"],
        "review_priority": round(row["review_priority"], DIGITS),
    }


def annotation_entry(number: int, image_number: int, row: Row) -> CocoAnnotation:
    """Return the entry of a segment.

    Args:
        number: the annotation's id.
        image_number: the image's id.
        row: of `annotations`.
    """
    attributes = _ATTRIBUTES_OF_INSTANCES if row["kind"] == "instance" else _ATTRIBUTES
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
            for name in attributes
            if name in row
        },
    }


def open_ascii(path: Path) -> TextIO:
    """Open a local file for ASCII with the same bytes on every system."""
    return path.open("w", encoding="ascii", newline="\n")


def before_images(head: dict[str, Any]) -> str:
    """Return the beginning of a file: everything but `images` and `annotations`."""
    return json.dumps(head)[:-1] + ', "images": ['


BEFORE_ANNOTATIONS = '\n], "annotations": ['
END = "\n]}\n"


class CocoFile:
    """A local COCO file that is written image by image; memory does not grow.

    Annotations go to a second file at first, because readers expect the images before them.

    Args:
        path: of the file; temporary files lie beside it.
        head: everything but `images` and `annotations`.
        open_files: closes the files after an error.
    """

    def __init__(self, path: Path, head: dict[str, Any], open_files: ExitStack) -> None:
        self.path = path
        self.num_images = 0
        self._images = open_files.enter_context(open_ascii(path))
        self.num_bytes = self._images.write(before_images(head))
        self._annotations_path = path.with_suffix(".annotations")
        self._annotations = open_files.enter_context(open_ascii(self._annotations_path))
        self._is_first = True

    def add(self, image: Any, annotations: Sequence[Any]) -> None:
        """Append an image and its annotations."""
        self.add_json(json.dumps(image), [json.dumps(entry) for entry in annotations])

    def add_json(self, image: str, annotations: Sequence[str]) -> None:
        """Append an image and its annotations, which are JSON already."""
        self.num_bytes += self._images.write((",\n" if self.num_images else "\n") + image)
        self.num_images += 1
        for text in annotations:
            self.num_bytes += self._annotations.write(("\n" if self._is_first else ",\n") + text)
            self._is_first = False

    def close(self) -> Path:
        """Append the annotations to the images and return the file."""
        self._images.write(BEFORE_ANNOTATIONS)
        self._images.close()
        self._annotations.write(END)
        self._annotations.close()
        with self.path.open("ab") as target, self._annotations_path.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
        self._annotations_path.unlink()
        return self.path
