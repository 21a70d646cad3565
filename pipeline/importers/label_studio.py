"""Label Studio: a JSON export of the project (not JSON-MIN, which has no brush).

Every annotation that was not cancelled is a statement on its image, also an empty one: somebody
has sent it. Tasks without one were not reviewed. An opacity over 127 is inside the mask: strokes
drawn by hand have soft edges.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from time import time as now_s
from typing import Any

from ovseg_core.rle import coco_segmentation, label_studio_brush
from pipeline.importers.shared.archives import unpack
from pipeline.importers.shared.notes import NoteKind, Notes
from pipeline.importers.shared.tool_file import (
    MAX_NAME_CHARACTERS,
    STRUCTURE_ERRORS,
    ToolImage,
    ToolMask,
    check_name,
    check_num_masks,
    masks_to_read,
    noted,
    objects,
    parse_json,
    polygon_pixels,
    problem_of,
    read_all,
    read_corners,
    tool_mask,
)
from schemas.errors import UserError
from schemas.untrusted import MAX_PIXELS

Entry = dict[str, Any]
_ORIGIN = re.compile(r"ovseg-(\d+)(-\d+)?")
_MAX_SECONDS = 1e9
_CLOCKS_DIFFER_S = 24 * 3600
_MAX_NAMES = 32
"""Fields of a task that may name its image."""
_MAX_LABELS = 100
"""Of one region; each is a mask of its own."""
_SIZE = ("original_height", "original_width")
_NOT_REVIEWED = (
    "this is the file with predictions that goes to Label Studio (`ovseg export --to "
    "label_studio`); import it there, correct the masks, and give the project's JSON export"
)
_NO_ANNOTATIONS = "annotations are missing; export the project as JSON, not as JSON-MIN"


def read(data: bytes, notes: Notes, max_px: int = MAX_PIXELS) -> Iterator[ToolImage]:
    """Yield the annotations of all tasks, and an image without masks for each task without one.

    Args:
        data: the file.
        notes: get annotations that cannot be read or were cancelled.
        max_px: masks of larger images are not read.

    Raises:
        UserError: not an export of Label Studio.
    """
    expected = "Label Studio's JSON export, a list of tasks"
    tasks = parse_json(unpack(data, ".json"), list, expected)
    given = objects(tasks, "task", notes)
    if tasks and not any("annotations" in task for task in given):
        if any("predictions" in task for task in given):
            raise UserError(f"expected {expected}: {_NOT_REVIEWED}")
        raise UserError(f"expected {expected}: {_NO_ANNOTATIONS}")
    for place, task in enumerate(given, start=1):
        number = task.get("id", place)
        name = f"task {number if isinstance(number, int | str) else place}"
        with noted(notes, name):
            yield from _images(task, name, notes, max_px)


def _images(task: Entry, name: str, notes: Notes, max_px: int) -> Iterator[ToolImage]:
    if "annotations" not in task:
        raise ValueError(_NO_ANNOTATIONS)
    names = tuple(islice(_names(task["data"]), _MAX_NAMES))
    if names:
        name = f"{name} ({names[0]})"
    cancelled = [entry for entry in task["annotations"] if entry.get("was_cancelled")]
    given = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
    for _ in cancelled:
        notes.add(NoteKind.SKIPPED, name)
    if not task["annotations"]:
        yield ToolImage(names, None, ())
    for entry in given:
        with noted(notes, name):
            yield _image(entry, names, max_px)


def _image(annotation: Entry, names: tuple[str, ...], max_px: int) -> ToolImage:
    results = annotation["result"]
    regions = [entry for entry in results if entry.get("type") in _PIXELS]
    sizes = {coco_segmentation.parse_size_hw(*map(entry.get, _SIZE)) for entry in regions}
    if len(sizes) > 1:
        raise ValueError(f"regions of different image sizes: {sorted(sizes)}")
    labels = {entry.get("id"): found for entry in results if (found := _labels_beside(entry))}
    size_hw = sizes.pop() if sizes else None
    chosen = masks_to_read(regions, size_hw, max_px) if size_hw else ()
    masks = read_all(lambda entry: _masks(entry, labels.get(entry.get("id"))), chosen)
    check_num_masks(sum(map(len, masks)))
    return ToolImage(
        names=names,
        size_hw=size_hw,
        masks=tuple(mask for several in masks for mask in several),
        seconds=_seconds(annotation),
        num_left_out=sum(
            entry.get("type") not in _WITHOUT_SHAPE and "original_width" in entry
            for entry in results
        ),
        is_checked=True,
        is_ground_truth=annotation.get("ground_truth") is True,
        told_at_s=_time(annotation.get("updated_at") or annotation.get("created_at")),
    )


def _seconds(annotation: Entry) -> float | None:
    """Return the time spent; None if it is not valid (a clock was set back)."""
    time = annotation.get("lead_time")
    if isinstance(time, bool) or not isinstance(time, int | float):
        return None
    return float(time) if 0 < time < _MAX_SECONDS else None


def _time(text: Any) -> float | None:
    try:
        time = datetime.fromisoformat(text)
        at_s = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    is_over = at_s < now_s() + _CLOCKS_DIFFER_S  # else nothing would ever be newer
    return max(0.0, at_s) if is_over else None


def _labels_beside(entry: Entry) -> list[Any] | None:
    """Return the labels of a region, where they are an entry of their own."""
    if entry.get("type") != "labels" or not isinstance(entry.get("value"), dict):
        return None
    return entry["value"].get("labels")


def _masks(entry: Entry, labels_beside: list[Any] | None) -> list[ToolMask]:
    """Return a region's mask once for each of its labels, or once without a label."""
    try:
        if entry.get("image_rotation"):
            raise ValueError(
                f"turned by {entry['image_rotation']} degrees: turn the image back in Label Studio"
            )
        size_hw = coco_segmentation.parse_size_hw(*map(entry.get, _SIZE))
        origin = _ORIGIN.fullmatch(str(entry.get("id", "")))
        index = int(origin[1]) if origin else None
        pixels = _PIXELS[entry["type"]](entry["value"], size_hw)
        labels = entry["value"].get(entry["type"]) or labels_beside or [""]
        if not isinstance(labels, list) or len(labels) > _MAX_LABELS:
            raise ValueError(f"expected a list of labels, got {str(labels)[:40]!r}")
        is_polygon = "polygon" in entry["type"]
        return [tool_mask(check_name(label), pixels, index, is_polygon) for label in labels]
    except STRUCTURE_ERRORS as error:
        raise ValueError(f"region {entry.get('id')}: {problem_of(error)}") from error


def _brush(value: Entry, size_hw: tuple[int, int]) -> Any:
    return label_studio_brush.decode_brush(value["rle"], size_hw) > label_studio_brush.SOLID


def _polygon(value: Entry, size_hw: tuple[int, int]) -> Any:
    corners = read_corners(value["points"]) / 100 * (size_hw[1], size_hw[0])
    return polygon_pixels([corners], size_hw)


_PIXELS = {"brushlabels": _brush, "brush": _brush, "polygonlabels": _polygon, "polygon": _polygon}
_WITHOUT_SHAPE = {*_PIXELS, "labels"}
"""Types that are masks, or the label of one."""


def _names(data: Entry) -> Iterator[str]:
    """Yield `file_name` as our exporter wrote it, then URLs; a project's key may be any."""
    for key in dict.fromkeys(("file_name", "image", *data)):
        value = data.get(key)
        is_text = isinstance(value, str) and len(value) <= MAX_NAME_CHARACTERS
        if value and (key in ("file_name", "image") or (is_text and "." in value)):
            yield check_name(value)
