"""CVAT: `annotations.xml` of "CVAT for images 1.1", alone or in the ZIP that CVAT exports.

Masks are row-major run lengths in their bounding box, background first; polygons are filled. All
images of the file count as reviewed. CVAT's COCO exports are read by `coco`.
"""

import io
from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np

from ovseg_core.rle import coco_segmentation
from pipeline.importers.shared.tool_file import (
    Mask,
    ToolImage,
    polygon_pixels,
    read_entry,
    tool_mask,
    unpack,
)
from schemas.errors import UserError

Element = ElementTree.Element


def read(data: bytes) -> Iterator[ToolImage]:
    """Yield the file's images.

    Raises:
        UserError: not this XML, or an entry that cannot be read.
    """
    has_images = False
    try:
        for _, element in ElementTree.iterparse(io.BytesIO(unpack(data, ".xml"))):
            if element.tag != "image":
                continue
            has_images = True
            name = element.get("name", "?")
            yield read_entry(
                lambda element=element: _image(element), f"image {name!r} of the CVAT file"
            )
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


def _image(element: Element) -> ToolImage:
    size_hw = coco_segmentation.parse_size_hw(
        *(int(element.attrib[key]) for key in ("height", "width"))
    )
    shapes = [shape for shape in element if shape.tag in ("mask", "polygon")]
    return ToolImage(
        names=(element.attrib["name"],),
        size_hw=size_hw,
        masks=tuple(
            tool_mask(shape.attrib["label"], _pixels(shape, size_hw), _origin(shape))
            for shape in shapes
        ),
        num_left_out=sum(shape.tag in _OTHERS for shape in element),
    )


_OTHERS = ("box", "polyline", "points", "cuboid", "skeleton", "ellipse")


def _pixels(shape: Element, size_hw: tuple[int, int]) -> Mask:
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.attrib["points"].split(";")]
        return polygon_pixels(np.array(pairs, np.float64), size_hw)
    top, left, height, width = (
        int(shape.attrib[key]) for key in ("top", "left", "height", "width")
    )
    lengths = np.array(shape.attrib["rle"].split(","), np.int64)
    if lengths.sum() != height * width or lengths.min() < 0:
        raise ValueError(f"run lengths of {lengths.sum()} pixels in a box of {height * width}")
    inside = top >= 0 and left >= 0 and top + height <= size_hw[0] and left + width <= size_hw[1]
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
