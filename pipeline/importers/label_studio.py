"""Label Studio: a JSON export of the project (not JSON-MIN, which has no brush).

The newest annotation of a task that was not cancelled counts; tasks without one were not reviewed.
An opacity over 127 is inside the mask: strokes drawn by hand have soft edges.
"""

import math
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ovseg_core.rle import coco_segmentation, label_studio_brush
from pipeline.importers.shared.tool_file import (
    ToolImage,
    ToolMask,
    check_name,
    parse_json,
    polygon_pixels,
    read_entry,
    tool_mask,
    unpack,
)

Entry = dict[str, Any]
_ORIGIN = re.compile(r"ovseg-(\d+)(-\d+)?")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""Prefix that Label Studio adds to the names of uploaded files."""


def read(data: bytes) -> Iterator[ToolImage]:
    """Yield the images of tasks with an annotation.

    Raises:
        UserError: not an export of Label Studio, or an entry that cannot be read.
    """
    expected = "Label Studio's JSON export, a list of tasks"
    tasks = parse_json(unpack(data, ".json"), list, expected)
    for place, task in enumerate(tasks, start=1):
        name = task.get("id", place) if isinstance(task, dict) else place
        image = read_entry(lambda task=task: _image(task), f"task {name}")
        if image is not None:
            yield image


def _image(task: Entry) -> ToolImage | None:
    if "annotations" not in task:
        raise ValueError("annotations are missing; export the project as JSON, not as JSON-MIN")
    annotations = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
    if not annotations:
        return None
    newest = max(reversed(annotations), key=lambda entry: str(entry.get("updated_at") or ""))
    regions = [entry for entry in newest["result"] if entry.get("type") in _PIXELS]
    sizes = {coco_segmentation.parse_size_hw(*map(entry.get, _SIZE)) for entry in regions}
    if len(sizes) > 1:
        raise ValueError(f"regions of different image sizes: {sorted(sizes)}")
    return ToolImage(
        names=tuple(_names(task["data"])),
        size_hw=sizes.pop() if sizes else None,
        masks=tuple(mask for entry in regions for mask in _masks(entry)),
        seconds=_seconds(annotations),
        num_left_out=sum(
            entry.get("type") not in _PIXELS and "original_width" in entry
            for entry in newest["result"]
        ),
    )


_SIZE = ("original_height", "original_width")


def _seconds(annotations: list[Entry]) -> float | None:
    """Return the time of all annotations; None if no time is valid (a clock was set back)."""
    given = [entry.get("lead_time") for entry in annotations]
    times = [time for time in given if isinstance(time, int | float) and 0 < time < math.inf]
    return float(sum(times)) if times else None


def _masks(entry: Entry) -> Iterator[ToolMask]:
    """Yield a region's mask once for each of its labels."""
    if entry.get("image_rotation"):
        raise ValueError(
            f"region {entry.get('id')} is turned by {entry['image_rotation']} degrees: turn the "
            "image back in Label Studio"
        )
    size_hw = coco_segmentation.parse_size_hw(*map(entry.get, _SIZE))
    labels = entry["value"][entry["type"]]
    if not isinstance(labels, list) or not labels:
        raise ValueError(f"region {entry.get('id')}: expected a list of labels, got {labels!r}")
    origin = _ORIGIN.fullmatch(str(entry.get("id", "")))
    pixels = _PIXELS[entry["type"]](entry["value"], size_hw)
    for label in labels:
        yield tool_mask(label, pixels, int(origin[1]) if origin else None)


def _brush(value: Entry, size_hw: tuple[int, int]) -> Any:
    return label_studio_brush.decode_brush(value["rle"], size_hw) > label_studio_brush.SOLID


def _polygon(value: Entry, size_hw: tuple[int, int]) -> Any:
    corners = np.array(value["points"], np.float64) / 100 * (size_hw[1], size_hw[0])
    return polygon_pixels(corners, size_hw)


_PIXELS = {"brushlabels": _brush, "polygonlabels": _polygon}


def _names(data: Entry) -> Iterator[str]:
    """Yield possible names: `file_name` as our exporter wrote it, then the path in the URL."""
    if data.get("file_name"):
        yield check_name(data["file_name"])
    url = urlsplit(check_name(data.get("image") or ""))
    for path in (*parse_qs(url.query).get("d", ()), unquote(url.path), url.path):
        yield path
        folder, _, name = path.rpartition("/")
        yield f"{folder}/{_UPLOAD.sub('', name)}"
