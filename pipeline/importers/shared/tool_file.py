"""A tool's file as the run understands it: reviewed images with their masks.

Here is also what reading such files needs: JSON, polygons, limits, and notes of entries that cannot
be read.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg_core.rle import coco_segmentation
from ovseg_core.rle.encode import decode_rle
from pipeline.importers.shared.notes import NoteKind, Notes
from schemas.errors import UserError

Mask = NDArray[np.bool_]

STRUCTURE_ERRORS = (
    LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""Errors from reading a file that has a format's names but not its structure."""
CHECKED_MARKS = ("checked", "reviewed", "verified", "empty")
"""Names by which a file says of an image that a person has looked at it, in any letter case."""
_NEAR_PX, _NEAR_SHARE = 2, 0.05
"""How far outside of its image a polygon usually reaches, in pixels and as a share of the side."""
_NAMED_PROBLEMS = 3
MAX_NAME_CHARACTERS = 1 << 13
"""Of an image, with a signed URL, or of a label."""
MAX_MASKS = 10_000
"""Of one image: each is compared with each of the run's segments."""
_MANY_ENTRIES, _LEAST_BYTES = 1 << 20, 8
"""A file of more entries has at least so many bytes for each: empty ones take much more memory than
they take in the file."""


@dataclass(frozen=True)
class ToolMask:
    """One mask of a tool's file.

    Attributes:
        label: its name in the tool; empty: it has none.
        size_hw: of the image, as the tool has it.
        rle_counts: COCO's compressed RLE; the masks of a file would not fit in memory as pixels.
        segment_index: of the run's segment that it comes from; None: the file does not say.
        is_polygon: drawn from corners, so that its frame need not be that of the size.
        is_crowd: COCO's mark of a group of objects.
        area_px: as the file says it, which need not be the number of pixels; None: it does not.
    """

    label: str
    size_hw: tuple[int, int]
    rle_counts: str
    segment_index: int | None = None
    is_polygon: bool = field(default=False, compare=False)
    is_crowd: bool = field(default=False, compare=False)
    area_px: float | None = field(default=None, compare=False)

    @property
    def pixels(self) -> Mask:
        """The mask (H, W)."""
        return decode_rle(self.rle_counts, self.size_hw).astype(bool)


@dataclass(frozen=True)
class ToolImage:
    """One statement of a tool's file on one image.

    Attributes:
        names: its names in the tool, the most specific first.
        size_hw: as the tool has it; None: the file does not say.
        masks: all masks that the reviewer left.
        seconds: time spent on it; None: the file does not say.
        num_left_out: annotations that are not masks (boxes, points, text).
        is_checked: the file says that a person has looked at it, also where there is no mask.
        is_ground_truth: the tool marks it as the truth among several statements.
        told_at_s: when it was made, by the tool's clock, in Unix seconds; None: it does not say.
        frame_note: in words, if its size was found to be another than the stated one.
        absent: labels that it does not show, by LVIS's `neg_category_ids`; None: the file does not
            say, so that every label without a mask is absent.
        not_exhaustive: labels of which only some objects have a mask, by LVIS.
    """

    names: tuple[str, ...]
    size_hw: tuple[int, int] | None
    masks: tuple[ToolMask, ...]
    seconds: float | None = None
    num_left_out: int = field(default=0, compare=False)
    is_checked: bool = False
    is_ground_truth: bool = False
    told_at_s: float | None = None
    frame_note: str = ""
    absent: frozenset[str] | None = field(default=None, compare=False)
    not_exhaustive: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def name(self) -> str:
        """The first name, for messages."""
        return self.names[0] if self.names else "an image without a name"


def tool_mask(
    label: str, pixels: Mask, segment_index: int | None, is_polygon: bool = False
) -> ToolMask:
    """Return a mask (H, W) as a `ToolMask`."""
    height, width = pixels.shape
    counts = coco_segmentation.encode_mask(pixels)
    return ToolMask(label, (height, width), counts, segment_index, is_polygon)


def check_name(value: Any) -> str:
    """Return a text or number as a name that can be written as UTF-8.

    Raises:
        ValueError: another type, or longer than any name.
    """
    if isinstance(value, str) and len(value) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"a name of {len(value)} characters, more than {MAX_NAME_CHARACTERS}: {value[:40]!r}..."
        )
    if isinstance(value, str | int):
        return str(value).encode(errors="replace").decode()  # JSON may hold half a character
    raise ValueError(f"expected a name, got {value!r}")


def parse_json(data: bytes, kind: type, expected: str) -> Any:
    """Return the content of a JSON file.

    Args:
        data: the file.
        kind: `list` or `dict`.
        expected: the format, for messages.

    Raises:
        UserError: not JSON, of another kind, or one that no tool writes: with a key twice, or
            hardly anything but empty lists.
    """
    check_density(data, b"[{")
    try:
        value = json.loads(data, object_pairs_hook=_without_repetition)
    except UnicodeDecodeError as error:
        raise UserError(
            f"expected {expected}, but the file is neither text in UTF-8 nor packed by ZIP or gzip"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected {expected}, but the file is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"expected {expected}, got a JSON {type(value).__name__}")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (key, count), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has the key {key[:40]!r} {count} times")
    return found


def check_density(data: bytes, begins: bytes) -> None:
    """Refuse a file that would take much more memory than it has bytes.

    Args:
        data: the file.
        begins: the characters that an entry begins with.

    Raises:
        UserError: it has a million entries of a few bytes.
    """
    count = sum(data.count(one) for one in begins)
    if count > _MANY_ENTRIES and count * _LEAST_BYTES > len(data):
        raise UserError(
            f"the file has {count} entries in {len(data)} bytes: no tool writes so many empty ones"
        )


def objects(
    entries: Sequence[Any], name: str, notes: Notes, kind: NoteKind = NoteKind.UNREADABLE
) -> list[dict[str, Any]]:
    """Return the entries of a list that are JSON objects, and note the others."""
    found = [entry for entry in entries if isinstance(entry, dict)]
    if len(found) < len(entries):
        first = next(entry for entry in entries if not isinstance(entry, dict))
        shown = f" {first}" if isinstance(first, str | int | float) else ""
        text = f"{name}{shown}: expected a JSON object, got {type(first).__name__}"
        notes.add(kind, text, len(entries) - len(found))
    return found


def masks_to_read(entries: Sequence[Any], size_hw: tuple[int, int], max_px: int) -> Sequence[Any]:
    """Return an image's entries of masks; none if the image is larger than those of the run.

    Args:
        entries: of the file.
        size_hw: of the image as the file states it.
        max_px: pixels of the run's largest image.

    Raises:
        ValueError: more masks than an image may have.
    """
    check_num_masks(len(entries))
    return entries if size_hw[0] * size_hw[1] <= max_px else ()


def check_num_masks(count: int) -> None:
    """Refuse an image with more than `MAX_MASKS` masks.

    Raises:
        ValueError: it has more.
    """
    if count > MAX_MASKS:
        raise ValueError(f"{count} masks, more than the {MAX_MASKS} that are read of one image")


@contextmanager
def noted(notes: Notes, entry: str) -> Iterator[None]:
    """Note an entry that does not have the format's structure, instead of raising."""
    try:
        yield
    except STRUCTURE_ERRORS as error:
        notes.add(NoteKind.UNREADABLE, f"{entry}: {problem_of(error)}")


def problem_of(error: Exception) -> str:
    """Return in words what is wrong with an entry, from the error of reading it."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error) if isinstance(error, ValueError) else f"unexpected structure ({error})"


def read_all(read: Callable[[Any], Any], entries: Sequence[Any]) -> list[Any]:
    """Return what a function reads from each entry.

    Raises:
        ValueError: names what is wrong with all entries that cannot be read.
    """
    found, problems = [], []
    for entry in entries:
        try:
            found.append(read(entry))
        except STRUCTURE_ERRORS as error:
            problems.append(problem_of(error))
    if problems:
        more = len(problems) - _NAMED_PROBLEMS
        shown = "; ".join(problems[:_NAMED_PROBLEMS])
        raise ValueError(f"{shown}; and {more} more" if more > 0 else shown)
    return found


def read_corners(corners: Any) -> NDArray[np.float64]:
    """Return a polygon's corners (N, 2) x, y in pixels.

    Raises:
        TypeError, ValueError: they are no list of numbers, or fewer than three corners.
    """
    found = np.array(corners, np.float64)
    if found.ndim == 1 and len(found) % 2 == 0:
        found = found.reshape(-1, 2)
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"expected a polygon as x, y, x, y, ..., got {str(corners)[:40]!r}")
    if len(found) < 3:
        raise ValueError(f"a polygon of {len(found)} corners: expected three or more")
    if not np.isfinite(found).all():
        raise ValueError("expected corners of a polygon in numbers")
    return found


def frame_of_polygons(
    polygons: Sequence[NDArray[np.float64]], size_hw: tuple[int, int]
) -> tuple[int, int]:
    """Return the size of the frame that polygons are drawn in: the stated one, or that turned.

    Some tools state the size of the stored file and draw in the frame that a person sees.

    Args:
        polygons: corners (N, 2) of all polygons of an image.
        size_hw: of the image as the file states it.

    Raises:
        ValueError: they reach far beyond the image, whichever way.
    """
    if not polygons:
        return size_hw
    low = np.min([corners.min(axis=0) for corners in polygons], axis=0)
    high = np.max([corners.max(axis=0) for corners in polygons], axis=0)
    for height, width in (size_hw, size_hw[::-1]):
        near = np.maximum(_NEAR_PX, _NEAR_SHARE * np.array([width, height]))
        if (low >= -near).all() and (high - near <= [width, height]).all():
            return height, width
    raise ValueError(
        f"polygons from x, y = {low[0]:g}, {low[1]:g} to {high[0]:g}, {high[1]:g} in an image of "
        f"{size_hw[1]} x {size_hw[0]}: the size or the frame is of another image"
    )


def polygon_pixels(polygons: Sequence[NDArray[np.float64]], size_hw: tuple[int, int]) -> Mask:
    """Return the filled polygons (H, W) of corners (N, 2) x, y in pixels."""
    flat = [corners.ravel().tolist() for corners in polygons]
    return coco_segmentation.decode_segmentation(flat, size_hw)
