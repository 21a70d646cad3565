"""COCO: `instances.json` with corrected masks, as RLE or polygons, alone or in a ZIP.

COCO does not say which images were reviewed: all images of the file count as reviewed, so give a
file with reviewed images only. It does not hold the time spent either.
"""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

from ovseg_core.rle import coco_segmentation
from ovseg_core.rle.coco_segmentation import parse_id
from pipeline.importers.shared.tool_file import (
    ToolImage,
    ToolMask,
    check_name,
    parse_json,
    read_entry,
    unpack,
)
from schemas.errors import UserError

logger = logging.getLogger(__name__)

Entry = dict[str, Any]


def read(data: bytes) -> Iterator[ToolImage]:
    """Yield the file's images.

    Raises:
        UserError: not a COCO file, or an entry that cannot be read.
    """
    dataset = parse_json(unpack(data, ".json"), dict, "COCO's instances.json")
    missing = {"images", "annotations", "categories"} - set(dataset)
    if missing:
        raise UserError(
            f"this is not a COCO file of images and segments: {', '.join(sorted(missing))} missing"
        )
    names, images, by_image = read_entry(partial(_index, dataset), "the COCO file")
    del data, dataset  # a million masks are gigabytes: none is kept longer than needed
    for key, image in images:
        entries = by_image.pop(key, [])
        yield read_entry(
            lambda image=image, entries=entries: _image(image, entries, names),
            f"image {image.get('file_name', key)!r} of the COCO file",
        )


def _index(
    dataset: dict[str, Any],
) -> tuple[dict[str, str], list[tuple[str, Entry]], dict[str, list[Entry]]]:
    """Return category names by id, images with their ids, and annotations by image id."""
    names = {
        parse_id(category["id"]): check_name(category["name"]) for category in dataset["categories"]
    }
    images = [(parse_id(image["id"]), image) for image in dataset["images"]]
    known = {key for key, _ in images}
    if len(known) < len(images):
        raise ValueError("several images have the same id")
    by_image: dict[str, list[Entry]] = {}
    for annotation in dataset["annotations"]:
        by_image.setdefault(parse_id(annotation["image_id"]), []).append(annotation)
    unknown = [key for key in by_image if key not in known]
    if unknown and len(unknown) == len(by_image):
        raise ValueError(
            f"its masks belong to images that it does not have, for example image_id {unknown[0]}"
        )
    if unknown:
        logger.warning(
            "%d masks belong to images that the file does not have: left out",
            sum(len(by_image[key]) for key in unknown),
        )
    return names, images, by_image


def _image(image: Entry, annotations: list[Entry], names: dict[str, str]) -> ToolImage:
    size_hw = coco_segmentation.parse_size_hw(image["height"], image["width"])
    with_mask = [entry for entry in annotations if entry.get("segmentation")]
    given = (image.get("path"), image["file_name"])
    return ToolImage(
        names=tuple(check_name(name) for name in given if name),
        size_hw=size_hw,
        masks=tuple(_mask(entry, names, size_hw) for entry in with_mask),
        num_left_out=len(annotations) - len(with_mask),
    )


def _mask(entry: Entry, names: dict[str, str], size_hw: tuple[int, int]) -> ToolMask:
    label = names[parse_id(entry["category_id"])]
    counts = coco_segmentation.compress_segmentation(entry["segmentation"], size_hw)
    return ToolMask(label, size_hw, counts, _origin(entry))


def _origin(entry: Entry) -> int | None:
    """Return the run's segment as our exporter wrote it, if the tool kept the attribute."""
    attributes = entry.get("attributes") or {}
    for key in ("part_of", "segment_index"):
        value = str(attributes.get(key)).removesuffix(".0")
        if value.isdecimal():
            return int(value)
    return None
