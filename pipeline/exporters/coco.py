"""COCO: `instances.json` for tools and training, `results_segm.json` for COCOeval.

Both are streamed shard by shard, so memory does not grow with the collection. What readers of
COCO need, and often do not get: string counts, `iscrowd` 0, ids from 1, area and box of the mask,
images without segments. The text is ASCII, because many readers open it without an encoding.
"""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.finished import FinishedRun, FinishedShard, Row
from pipeline.rundir import RunDir
from schemas.base import Frozen
from schemas.coco import CocoAnnotation, CocoImage, CocoResult, CocoRle
from schemas.records import Share

logger = logging.getLogger(__name__)

FOLDER = "exports/coco"
_DIGITS = 6
"""Of scores: what float32 columns hold."""
_IMAGE_COLUMNS = ("path", "height", "width", "exif_orientation", "review_priority")
_ATTRIBUTES = (
    "segment_index",
    "margin_mean",
    "margin_p10",
    "entropy_mean",
    "saliency_mean",
    "boundary_uncertainty",
    "area_frac",
    "num_components",
)
_MASKS = {
    "class": "semantic masks: one for each label and image; they are not instances, touching or "
    "scattered objects of one label share a mask",
    "components": "connected regions of semantic masks; they are not instances, touching objects "
    "of one label share a region and a divided object has several",
}


class Options(Frozen):
    """Options of the COCO exporter."""

    min_score: Share = 0.0
    """Segments with a lower score (mean probability of the label under the mask) are left out."""


def export(run: RunDir, options: Options) -> list[str]:
    """Write both files and return their paths in the run folder."""
    finished = FinishedRun(run)
    names = [f"{FOLDER}/instances.json", f"{FOLDER}/results_segm.json"]
    with tempfile.TemporaryDirectory(prefix="ovseg-coco-") as folder:
        dataset, results = Path(folder, "instances.json"), Path(folder, "results_segm.json")
        with _create(dataset) as dataset_file, _create(results) as results_file:
            count = _write(finished, options, dataset_file, results_file)
        for name, file in zip(names, (dataset, results), strict=True):
            run.folder.put_file(name, file)
    if finished.num_left:
        logger.warning("%d images of the run are not annotated yet", finished.num_left)
    if not count:
        logger.warning("no segments: results_segm.json is an empty list, which loadRes refuses")
    return names


def _create(path: Path) -> TextIO:
    return path.open("w", encoding="ascii", newline="\n")


def _write(finished: FinishedRun, options: Options, dataset: TextIO, results: TextIO) -> int:
    """Write both files in one pass over images and one over segments; return the segments."""
    head = {
        "info": _info(finished, options),
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in enumerate(finished.run.info.job().vocabulary.names, start=1)
        ],
    }
    dataset.write(json.dumps(head)[:-1] + ', "images": [')
    shards = finished.shards(_IMAGE_COLUMNS)
    _write_items(dataset, (json.dumps(_image(row)) for s in shards for row in s.images.values()))
    dataset.write('], "annotations": [')
    results.write("[")
    separator = "\n"
    count = 0
    for annotation, result in _segments(finished, options):
        dataset.write(separator + annotation)
        results.write(separator + result)
        separator = ",\n"
        count += 1
    dataset.write("\n]}\n")
    results.write("\n]\n")
    return count


def _write_items(file: TextIO, items: Iterable[str]) -> None:
    separator = "\n"
    for item in items:
        file.write(separator + item)
        separator = ",\n"
    file.write("\n")


def _info(finished: FinishedRun, options: Options) -> dict[str, Any]:
    run = finished.run.info
    job = run.job()
    return {
        "description": "Pseudo-labels drawn by a model and checked by nobody",
        "version": run.versions.get("ovseg", ""),
        "masks": _MASKS[job.masks.segments],
        "frame": "EXIF orientation is applied: masks fit the image as it is displayed",
        "score": "mean probability of the label under the mask",
        "method": job.method.name,
        "fingerprint": run.fingerprint,
        "min_score": options.min_score,
        "num_failed_images": sum(finished.errors.values()),
        "failed_images": finished.errors,
        "num_images_left": finished.num_left,
    }


def _image(row: Row) -> CocoImage:
    return {
        "id": row["number"],
        "file_name": row["path"],
        "width": row["width"],
        "height": row["height"],
        "exif_orientation": row["exif_orientation"],
        "review_priority": round(row["review_priority"], _DIGITS),
    }


def _segments(finished: FinishedRun, options: Options) -> Iterator[tuple[str, str]]:
    """Yield each segment as the JSON of an annotation and of a result."""
    number = 0
    for shard in finished.shards():
        for row in shard.segments():
            if round(row["mean_prob"], _DIGITS) >= options.min_score:
                number += 1
                yield _segment(number, row, shard)


def _segment(number: int, row: Row, shard: FinishedShard) -> tuple[str, str]:
    rle: CocoRle = {"size": [row["height"], row["width"]], "counts": row["rle_counts"]}
    result: CocoResult = {
        "image_id": shard.images[row["image_id"]]["number"],
        "category_id": row["category_id"],
        "segmentation": rle,
        "score": round(row["mean_prob"], _DIGITS),
    }
    annotation: CocoAnnotation = {
        "id": number,
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "segmentation": rle,
        "area": row["area_px"],
        "bbox": row["bbox_xywh"],
        "iscrowd": 0,
        "score": result["score"],
        "attributes": {
            name: round(row[name], _DIGITS) if isinstance(row[name], float) else row[name]
            for name in _ATTRIBUTES
        },
    }
    return json.dumps(annotation), json.dumps(result)
