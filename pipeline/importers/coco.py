"""COCO: `instances.json` with corrected masks, as run lengths or polygons, alone or in a ZIP.

COCO does not tell which images a person has seen: all of the file's are taken for gone through, so
give a file of the reviewed ones only. It knows no time either.
"""

from collections.abc import Iterator
from typing import Any

from pipeline.importers._tool import (
    ToolImage,
    ToolMask,
    checked,
    coco_pixels,
    member,
    parse_json,
)
from schemas.errors import UserError

Entry = dict[str, Any]


def read(data: bytes) -> Iterator[ToolImage]:
    """Yield the file's images.

    Raises:
        UserError: no COCO file, or an entry that cannot be read.
    """
    dataset = parse_json(member(data, ".json"), dict, "COCO's instances.json")
    missing = {"images", "annotations", "categories"} - set(dataset)
    if missing:
        raise UserError(
            f"this is no COCO file of images and segments: it has no {', '.join(sorted(missing))}"
        )
    names, by_image = checked(lambda: _index(dataset), "the COCO file")
    for image in dataset["images"]:
        yield checked(
            lambda image=image: _image(image, by_image.get(image["id"], []), names),
            f"image {image.get('file_name', '?')!r} of the COCO file",
        )


def _index(dataset: dict[str, Any]) -> tuple[dict[int, str], dict[int, list[Entry]]]:
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    by_image: dict[int, list[Entry]] = {}
    for annotation in dataset["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    return names, by_image


def _image(image: Entry, annotations: list[Entry], names: dict[int, str]) -> ToolImage:
    size_hw = image["height"], image["width"]
    with_mask = [entry for entry in annotations if entry.get("segmentation")]
    given = (image.get("path"), image["file_name"])
    return ToolImage(
        names=tuple(name for name in given if name),
        size_hw=size_hw,
        masks=tuple(
            ToolMask(
                label=names[entry["category_id"]],
                pixels=coco_pixels(entry["segmentation"], size_hw),
                segment_index=_origin(entry),
            )
            for entry in with_mask
        ),
        num_left_out=len(annotations) - len(with_mask),
    )


def _origin(entry: Entry) -> int | None:
    """Return the run's segment that our own exporter noted, where the tool kept the note."""
    attributes = entry.get("attributes") or {}
    for key in ("part_of", "segment_index"):
        value = str(attributes.get(key))
        if value.isdecimal():
            return int(value)
    return None
