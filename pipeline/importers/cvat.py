"""CVAT: `annotations.xml` of "CVAT for images 1.1", alone or in the ZIP that CVAT exports.

Masks are row-major run lengths in their bounding box, background first; polygons are filled. Images
with masks count as reviewed, and those with a tag `checked`, `reviewed`, `verified` or `empty`.
CVAT's COCO exports are read by `coco`.
"""

import io
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ovseg_core.rle import coco_segmentation
from pipeline.importers.shared.archives import unpack
from pipeline.importers.shared.notes import Notes
from pipeline.importers.shared.tool_file import (
    CHECKED_MARKS,
    STRUCTURE_ERRORS,
    Mask,
    ToolImage,
    ToolMask,
    check_density,
    check_name,
    frame_of_polygons,
    masks_to_read,
    noted,
    polygon_pixels,
    problem_of,
    read_all,
    read_corners,
    tool_mask,
)
from schemas.errors import UserError
from schemas.untrusted import MAX_PIXELS

Element = ElementTree.Element


def read(data: bytes, notes: Notes, max_px: int = MAX_PIXELS) -> Iterator[ToolImage]:
    """Yield the file's images.

    Args:
        data: the file.
        notes: get the images that cannot be read.
        max_px: masks of larger images are not read.

    Raises:
        UserError: not this XML.
    """
    has_images = False
    data = unpack(data, ".xml")
    check_density(data, b"<")
    try:
        for _, element in ElementTree.iterparse(io.BytesIO(data)):
            if element.tag == "label" and element.findtext(
                "name"
            ):  # of the task, before all images
                notes.listed_labels.add(element.findtext("name", ""))
            if element.tag != "image":
                continue
            has_images = True
            with noted(notes, element.get("name", "an image without a name")):
                yield _image(element, max_px)
            element.clear()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter: its encoding
        raise UserError(
            f"expected CVAT's annotations.xml, but the file is not XML: {error}"
        ) from error
    if not has_images:
        raise UserError(
            'this XML has no images: export the task as "CVAT for images 1.1", not as a video or '
            "as COCO"
        )


def _image(element: Element, max_px: int) -> ToolImage:
    height, width = (element.attrib[key] for key in ("height", "width"))
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"expected a width and a height in pixels, got {width!r} and {height!r}")
    stated_hw = coco_segmentation.parse_size_hw(int(height), int(width))
    all_shapes = [shape for shape in element if shape.tag in ("mask", "polygon")]
    shapes = masks_to_read(all_shapes, stated_hw, max_px)
    drawn = read_all(_polygons, shapes)
    size_hw = frame_of_polygons([one for polygons in drawn for one in polygons], stated_hw)
    pairs = list(zip(shapes, drawn, strict=True))
    tags = {shape.get("label", "").casefold() for shape in element if shape.tag == "tag"}
    return ToolImage(
        names=(check_name(element.attrib["name"]),),
        size_hw=size_hw,
        masks=tuple(read_all(lambda pair: _mask(pair[0], pair[1], size_hw), pairs)),
        num_left_out=sum(shape.tag in _OTHERS for shape in element),
        is_checked=not tags.isdisjoint(CHECKED_MARKS),
        frame_note="" if size_hw == stated_hw else "its polygons lie in the turned frame",
    )


_OTHERS = ("box", "polyline", "points", "cuboid", "skeleton", "ellipse")


def _polygons(shape: Element) -> list[Any]:
    """Return a shape's polygon as corners (N, 2); none of a mask in run lengths."""
    if shape.tag != "polygon":
        return []
    return [read_corners([pair.split(",") for pair in shape.attrib["points"].split(";")])]


def _mask(shape: Element, polygons: list[Any], size_hw: tuple[int, int]) -> ToolMask:
    try:
        pixels = polygon_pixels(polygons, size_hw) if polygons else _pixels(shape, size_hw)
        return tool_mask(check_name(shape.attrib["label"]), pixels, _origin(shape), bool(polygons))
    except STRUCTURE_ERRORS as error:
        raise ValueError(f"{shape.tag} of {shape.get('label')!r}: {problem_of(error)}") from error


def _pixels(shape: Element, size_hw: tuple[int, int]) -> Mask:
    top, left, height, width = (
        int(shape.attrib[key]) for key in ("top", "left", "height", "width")
    )
    # Before sums: those of larger numbers wrap around, and the process would end.
    lengths = np.array(shape.attrib["rle"].split(","), np.int64)
    if lengths.min() < 0 or lengths.max() > size_hw[0] * size_hw[1]:
        raise ValueError(f"run lengths that are none of {size_hw[1]} x {size_hw[0]} pixels")
    if lengths.sum() != height * width:
        raise ValueError(f"run lengths of {lengths.sum()} pixels in a box of {height * width}")
    inside = (
        min(height, width) > 0
        and top >= 0
        and left >= 0
        and top + height <= size_hw[0]
        and left + width <= size_hw[1]
    )
    if not inside:
        raise ValueError("a mask that reaches beyond its image")
    pixels = np.zeros(size_hw, bool)
    values = np.arange(len(lengths)) % 2 == 1
    pixels[top : top + height, left : left + width] = np.repeat(values, lengths).reshape(
        height, width
    )
    return pixels


def _origin(shape: Element) -> int | None:
    """Return the run's segment as our exporter wrote it, if the tool kept the attribute."""
    for attribute in shape.iter("attribute"):
        if attribute.get("name") == "segment_index" and (attribute.text or "").isdecimal():
            return int(attribute.text or "")
    return None
