"""Label Studio: a JSON export of the project (not JSON-MIN, which has no brush).

Of each task the newest annotation counts that was not cancelled; tasks without one were not gone
through. An opacity over 127 is inside: strokes drawn by hand have soft rims.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ovseg_core import brush
from pipeline.importers._tool import ToolImage, ToolMask, checked, parse_json, polygon_pixels

Entry = dict[str, Any]
_ORIGIN = re.compile(r"ovseg-(\d+)")
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the names of uploaded files."""


def read(data: bytes) -> Iterator[ToolImage]:
    """Yield the images of tasks with an annotation.

    Raises:
        UserError: no export of Label Studio, or an entry that cannot be read.
    """
    tasks = parse_json(data, list, "Label Studio's JSON export, a list of tasks")
    for place, task in enumerate(tasks, start=1):
        name = task.get("id", place) if isinstance(task, dict) else place
        image = checked(lambda task=task: _image(task), f"task {name}")
        if image is not None:
            yield image


def _image(task: Entry) -> ToolImage | None:
    annotations = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
    if not annotations:
        return None
    newest = max(annotations, key=lambda entry: str(entry.get("updated_at", "")))
    regions = [entry for entry in newest["result"] if entry.get("type") in _PIXELS]
    sizes = {(entry["original_height"], entry["original_width"]) for entry in regions}
    if len(sizes) > 1:
        raise ValueError(f"regions of different image sizes: {sorted(sizes)}")
    seconds = [entry["lead_time"] for entry in annotations if entry.get("lead_time")]
    return ToolImage(
        names=tuple(_names(task["data"])),
        size_hw=sizes.pop() if sizes else (0, 0),
        masks=tuple(_mask(entry) for entry in regions),
        seconds=float(sum(seconds)) if seconds else None,
        num_left_out=sum(
            entry.get("type") not in _PIXELS and "original_width" in entry
            for entry in newest["result"]
        ),
    )


def _mask(entry: Entry) -> ToolMask:
    if entry.get("image_rotation"):
        raise ValueError(f"region {entry.get('id')} is turned by {entry['image_rotation']} degrees")
    size_hw = entry["original_height"], entry["original_width"]
    (label, *_) = entry["value"][entry["type"]]
    origin = _ORIGIN.fullmatch(str(entry.get("id", "")))
    pixels = _PIXELS[entry["type"]](entry["value"], size_hw)
    return ToolMask(label, pixels, int(origin[1]) if origin else None)


def _brush(value: Entry, size_hw: tuple[int, int]) -> Any:
    return brush.opacity(value["rle"], size_hw) > brush.SOLID


def _polygon(value: Entry, size_hw: tuple[int, int]) -> Any:
    corners = np.array(value["points"], np.float64) / 100 * (size_hw[1], size_hw[0])
    return polygon_pixels(corners, size_hw)


_PIXELS = {"brushlabels": _brush, "polygonlabels": _polygon}


def _names(data: Entry) -> Iterator[str]:
    """Yield what an image may be called: our note, the path in its URL, plain and unquoted."""
    if data.get("file_name"):
        yield str(data["file_name"])
    url = urlsplit(str(data.get("image", "")))
    for path in (*parse_qs(url.query).get("d", ()), unquote(url.path), url.path):
        yield path
        folder, _, name = path.rpartition("/")
        yield f"{folder}/{_UPLOAD.sub('', name)}"
