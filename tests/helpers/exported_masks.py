"""Exports read back: whole files, and what their tools see, (path, label, RLE) of every mask."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg_core.rle import label_studio_brush
from pipeline.exporters import coco, label_studio
from pipeline.importers import cvat
from pipeline.importers.shared.notes import Notes
from pipeline.run.file_names import FileNames
from pipeline.run.folder import RunFolder
from pipeline.run.reader import RunReader

Mask = tuple[str, str, str]


def run_masks(run: RunFolder) -> list[Mask]:
    """Return the run's own masks."""
    return sorted(
        (shard.images[row["image_id"]]["path"], row["label"], row["rle_counts"])
        for shard in RunReader(run).shards()
        for row in shard.segments()
    )


def counts_of(mask: np.ndarray) -> str:
    """Return a mask (H, W) as RLE counts."""
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def coco_dataset(run: RunFolder) -> dict:
    """Export a run to COCO and return its `instances.json`."""
    coco.export(run, coco.Options())
    return _json(run, "exports/coco/instances.json")


def label_studio_tasks(run: RunFolder, **options: object) -> list[dict]:
    """Export a run to Label Studio and return its tasks."""
    label_studio.export(run, label_studio.Options.model_validate(options))
    return json.loads(run.folder.read_bytes("exports/label_studio/tasks.json"))


def _json(run: RunFolder, name: str) -> dict:
    return json.loads(run.folder.read_bytes(name))


def _picture(run: RunFolder, name: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(run.folder.read_bytes(name))))


def _coco(run: RunFolder, name: str) -> list[Mask]:
    dataset = _json(run, name)
    paths = {image["id"]: image["file_name"] for image in dataset["images"]}
    labels = {category["id"]: category["name"] for category in dataset["categories"]}
    return [
        (
            paths[entry["image_id"]],
            labels[entry["category_id"]],
            counts_of(coco_mask.decode(entry["segmentation"])),
        )
        for entry in dataset["annotations"]
    ]


def stem_file(run: RunFolder, folder: str, path: str, suffix: str) -> str:
    """Return the file of an image, named by its stem, its whole name or a shortened one."""
    return f"{folder}/{FileNames(run, lambda what, name: None).of_image(path)}{suffix}"


def _semantic_png(run: RunFolder) -> list[Mask]:
    folder = "exports/semantic_png"
    labels = _json(run, f"{folder}/classes.json")["classes"]
    masks = []
    for path in _paths(run):
        file = stem_file(run, f"{folder}/labels", path, ".png")
        if not run.folder.exists(file):
            continue  # the image is not in the export
        values = _picture(run, file)
        assert values.dtype == np.uint8
        assert values.ndim == 2
        masks += [
            (path, labels[value], counts_of(values == value))
            for value in np.unique(values[values != 255]).tolist()
        ]
    return masks


def _panoptic(run: RunFolder) -> list[Mask]:
    dataset = _json(run, "exports/panoptic/panoptic.json")
    paths = {image["id"]: image["file_name"] for image in dataset["images"]}
    labels = {category["id"]: category["name"] for category in dataset["categories"]}
    masks = []
    for entry in dataset["annotations"]:
        pixels = _picture(run, f"exports/panoptic/panoptic/{entry['file_name']}").astype(int)
        assert pixels.shape[2] == 3
        numbers = pixels @ [1, 256, 65536]
        listed = {segment["id"] for segment in entry["segments_info"]}
        assert listed == set(np.unique(numbers[numbers > 0]).tolist())
        for segment in entry["segments_info"]:
            mask = numbers == segment["id"]
            assert segment["area"] == mask.sum()
            path = paths[entry["image_id"]]
            masks.append((path, labels[segment["category_id"]], counts_of(mask)))
    return masks


def _labelme(run: RunFolder) -> list[Mask]:
    masks = []
    for path in _paths(run):
        file = stem_file(run, "exports/labelme", path, ".json")
        if not run.folder.exists(file):
            continue  # the image is not in the export
        document = _json(run, file)
        assert document["imagePath"] == Path(path).name
        for shape in document["shapes"]:
            (left, top), (right, bottom) = shape["points"]
            crop = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
            assert crop.shape == (bottom - top + 1, right - left + 1)
            mask = np.zeros((document["imageHeight"], document["imageWidth"]), np.uint8)
            mask[top : bottom + 1, left : right + 1] = crop
            masks.append((path, shape["label"], counts_of(mask)))
    return masks


def _paths(run: RunFolder) -> list[str]:
    shards = RunReader(run).shards()
    return [row["path"] for shard in shards for row in shard.images.values()]


def _cvat(run: RunFolder) -> list[Mask]:
    data = run.folder.read_bytes("exports/cvat/annotations.xml")
    return [
        (image.names[0], mask.label, counts_of(mask.pixels))
        for image in cvat.read(data, Notes())
        for mask in image.masks
    ]


def _label_studio(run: RunFolder) -> list[Mask]:
    return [
        (
            task["data"]["file_name"],
            region["value"]["brushlabels"][0],
            counts_of(
                label_studio_brush.decode_brush(
                    region["value"]["rle"], (region["original_height"], region["original_width"])
                )
                > label_studio_brush.SOLID
            ),
        )
        for task in _json(run, "exports/label_studio/tasks.json")
        for region in task["predictions"][0]["result"]
    ]


READERS: dict[str, Callable[[RunFolder], list[Mask]]] = {
    "coco": lambda run: _coco(run, "exports/coco/instances.json"),
    "cvat": _cvat,
    "fiftyone": lambda run: _coco(run, "exports/fiftyone/labels.json"),
    "label_studio": _label_studio,
    "labelme": _labelme,
    "panoptic": _panoptic,
    "semantic_png": _semantic_png,
}
"""Readers of the exact formats."""
