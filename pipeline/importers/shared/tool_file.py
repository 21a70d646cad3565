"""A tool's file as the run understands it: reviewed images with their masks.

Here is also what reading such files needs: ZIP archives, JSON, and errors that name the entry.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg_core.rle import coco_segmentation
from ovseg_core.rle.encode import decode_rle
from schemas.errors import UserError

Mask = NDArray[np.bool_]

_STRUCTURE_ERRORS = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""Errors from reading a file that has a format's names but not its structure."""
_ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Errors from reading a ZIP that is damaged, truncated, encrypted or compressed in another way."""
_MAX_UNPACKED_BYTES, _MAX_RATIO = 1 << 30, 200
"""A member beyond both is refused as a ZIP bomb; reviews shrink to a fifth or a tenth."""


@dataclass(frozen=True)
class ToolMask:
    """One mask of a tool's file.

    Attributes:
        label: its name in the tool.
        size_hw: of the image, as the tool has it.
        rle_counts: COCO's compressed RLE; the masks of a file would not fit in memory as pixels.
        segment_index: of the run's segment that it comes from; None: the file does not say.
    """

    label: str
    size_hw: tuple[int, int]
    rle_counts: str
    segment_index: int | None = None

    @property
    def pixels(self) -> Mask:
        """The mask (H, W)."""
        return decode_rle(self.rle_counts, self.size_hw).astype(bool)


@dataclass(frozen=True)
class ToolImage:
    """One reviewed image of a tool's file.

    Attributes:
        names: its names in the tool, the most specific first.
        size_hw: as the tool has it; None: the file does not say.
        masks: all masks that the reviewer left.
        seconds: time spent on it; None: the file does not say.
        num_left_out: annotations that are not masks (boxes, points, text).
    """

    names: tuple[str, ...]
    size_hw: tuple[int, int] | None
    masks: tuple[ToolMask, ...]
    seconds: float | None = None
    num_left_out: int = field(default=0, compare=False)


def tool_mask(label: Any, pixels: Mask, segment_index: int | None) -> ToolMask:
    """Return a mask (H, W) as a `ToolMask`.

    Raises:
        ValueError: the label is not a name.
    """
    height, width = pixels.shape
    counts = coco_segmentation.encode_mask(pixels)
    return ToolMask(check_name(label), (height, width), counts, segment_index)


def check_name(value: Any) -> str:
    """Return a text or number as a name that can be written as UTF-8.

    Raises:
        ValueError: another type.
    """
    if isinstance(value, str | int):
        return str(value).encode(errors="replace").decode()  # JSON may hold half a character
    raise ValueError(f"expected a name, got {value!r}")


def unpack(data: bytes, suffix: str) -> bytes:
    """Return a file itself, or if it is a ZIP archive its only member with this suffix.

    Raises:
        UserError: a damaged archive, or one without or with several such members.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(_only_member(archive, suffix))
    except _ARCHIVE_ERRORS as error:
        raise UserError(
            f"the archive is damaged, or compressed in a way that cannot be read: {error}; unpack "
            "it and give the file"
        ) from error


def _only_member(archive: zipfile.ZipFile, suffix: str) -> zipfile.ZipInfo:
    members = [
        member
        for member in archive.infolist()
        # macOS adds a second file for every one.
        if member.filename.lower().endswith(suffix) and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise UserError(
            f"expected one {suffix} file in the archive, got "
            f"{', '.join(member.filename for member in members[:5]) or 'none'}: unpack it and "
            "give the file"
        )
    size, packed = members[0].file_size, members[0].compress_size
    if size > max(_MAX_UNPACKED_BYTES, _MAX_RATIO * packed):
        raise UserError(
            f"{members[0].filename} in the archive would grow from {packed} to {size} bytes, more "
            "than a review does: unpack it and give the file"
        )
    return members[0]


def parse_json(data: bytes, kind: type, expected: str) -> Any:
    """Return the content of a JSON file.

    Args:
        data: the file.
        kind: `list` or `dict`.
        expected: the format, for messages.

    Raises:
        UserError: not JSON, or of another kind.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected {expected}, but the file is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"expected {expected}, got a JSON {type(value).__name__}")
    return value


def read_entry(read: Callable[[], Any], entry: str) -> Any:
    """Return what a function reads from an entry of the file.

    Raises:
        UserError: the entry, which the message names, does not have the format's structure.
    """
    try:
        return read()
    except KeyError as error:
        raise UserError(f"{entry} cannot be read: {error} is missing") from error
    except ValueError as error:
        raise UserError(f"{entry} cannot be read: {error}") from error
    except _STRUCTURE_ERRORS as error:
        raise UserError(f"{entry} cannot be read: unexpected structure ({error})") from error


def polygon_pixels(corners: NDArray[np.float64], size_hw: tuple[int, int]) -> Mask:
    """Return the filled polygon (H, W) of corners (N, 2) x, y in pixels."""
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"a polygon needs three corners or more, got shape {corners.shape}")
    return coco_segmentation.decode_segmentation([corners.ravel().tolist()], size_hw)
