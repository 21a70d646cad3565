"""Run in the environment of the clients, without importing ovseg: print what they read as JSON.

    python read_with.py datumaro FORMAT FOLDER | labelme FOLDER | fiftyone FOLDER PHOTOGRAPHS

The output is a list of [name, label, RLE, attributes], one per mask.
"""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

Read = tuple[str, str, str, dict[str, Any]]


def _counts(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def _datumaro(kind: str, folder: str) -> Iterator[Read]:
    import datumaro

    dataset = datumaro.Dataset.import_from(folder, kind)
    labels = dataset.categories()[datumaro.AnnotationType.label]
    for item in dataset:
        for entry in item.annotations:
            # It puts a box beside every mask; a polygon would be a mask that was lost.
            assert entry.type in (datumaro.AnnotationType.mask, datumaro.AnnotationType.bbox)
            if entry.type == datumaro.AnnotationType.mask:
                yield item.id, labels[entry.label].name, _counts(entry.image), entry.attributes


def _labelme(folder: str) -> Iterator[Read]:
    from labelme._label_file import read_label_file

    for file in sorted(Path(folder).rglob("*.json")):
        document = json.loads(file.read_text())
        for shape in read_label_file(str(file)).shapes:
            assert shape["shape_type"] == "mask"
            (left, top), (right, bottom) = np.array(shape["points"], int)
            mask = np.zeros((document["imageHeight"], document["imageWidth"]), np.uint8)
            mask[top : bottom + 1, left : right + 1] = shape["mask"]
            name = str(file.relative_to(folder).parent / document["imagePath"])
            word, score = shape["description"].split()
            yield name, shape["label"], _counts(mask), {word: float(score)}


def _fiftyone(folder: str, photos: str) -> Iterator[Read]:
    sys.argv = ["load.py", photos]
    dataset = runpy.run_path(f"{folder}/load.py", run_name="loaded")["dataset"]
    dataset.compute_metadata()  # FiftyOne's own sizes, EXIF applied
    for sample in dataset:
        name = str(Path(sample.filepath).relative_to(photos))
        width, height = sample.metadata.width, sample.metadata.height
        priority = {"review_priority": sample.review_priority}
        for found in sample.pred.detections if sample.pred else ():
            left, top, wide, high = np.round(
                found.bounding_box * np.array([width, height] * 2)
            ).astype(int)
            mask = np.zeros((height, width), np.uint8)
            mask[top : top + high, left : left + wide] = found.mask
            yield name, found.label, _counts(mask), {"score": found.confidence, **priority}


if __name__ == "__main__":
    read = {"datumaro": _datumaro, "labelme": _labelme, "fiftyone": _fiftyone}[sys.argv[1]]
    json.dump(list(read(*sys.argv[2:])), sys.stdout)
