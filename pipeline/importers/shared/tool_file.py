"""What every tool's file comes down to: images that a person has gone through, and their masks."""

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
from ovseg_core.rle.encode import decode
from schemas.errors import UserError

Mask = NDArray[np.bool_]

NOT_THE_FORMAT = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading raises where a file has a format's names but not its form."""
_BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What reading a ZIP raises: damaged, cut, packed in an unknown way, or with a password."""
_BOMB_BYTES, _BOMB_TIMES = 1 << 30, 200
"""Reviews pack to a fifth or a tenth; what grows more than this is none."""


@dataclass(frozen=True)
class ToolMask:
    """One mask.

    Attributes:
        label: as the tool calls it.
        size_hw: of the image, as the tool sees it.
        rle_counts: COCO compressed run lengths: a file's masks together would not fit as pixels.
        segment_index: the run's segment that it says it came from; None: it does not say.
    """

    label: str
    size_hw: tuple[int, int]
    rle_counts: str
    segment_index: int | None = None

    @property
    def pixels(self) -> Mask:
        """(H, W)."""
        return decode(self.rle_counts, self.size_hw).astype(bool)


@dataclass(frozen=True)
class ToolImage:
    """One image that was gone through.

    Attributes:
        names: what the tool calls it, the most telling first.
        size_hw: as the tool sees it; None: it does not tell.
        masks: all that a person left.
        seconds: time spent on it; None: the tool does not tell.
        num_left_out: regions of kinds that are no masks (boxes, points, text).
    """

    names: tuple[str, ...]
    size_hw: tuple[int, int] | None
    masks: tuple[ToolMask, ...]
    seconds: float | None = None
    num_left_out: int = field(default=0, compare=False)


def tool_mask(label: Any, pixels: Mask, segment_index: int | None) -> ToolMask:
    """Pack a mask (H, W).

    Raises:
        ValueError: the label is no text.
    """
    height, width = pixels.shape
    return ToolMask(text(label), (height, width), coco_segmentation.packed(pixels), segment_index)


def text(value: Any) -> str:
    """Return a name that can be written; a number is one too.

    Raises:
        ValueError: something else.
    """
    if isinstance(value, str | int):
        return str(value).encode(errors="replace").decode()  # JSON may hold half a character
    raise ValueError(f"expected a name, got {value!r}")


def member(data: bytes, ending: str) -> bytes:
    """Return a file itself, or the one of this ending in a ZIP archive.

    Raises:
        UserError: a broken archive, or one without or with several such files.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(_only(archive, ending))
    except _BAD_ARCHIVE as error:
        raise UserError(
            f"the archive is damaged, or packed in a way that cannot be read: {error}; unpack it "
            "and give the file"
        ) from error


def _only(archive: zipfile.ZipFile, ending: str) -> zipfile.ZipInfo:
    entries = [
        entry
        for entry in archive.infolist()
        # macOS puts a second file beside every one.
        if entry.filename.lower().endswith(ending) and not entry.filename.startswith("__MACOSX/")
    ]
    if len(entries) != 1:
        raise UserError(
            f"expected one {ending} file in the archive, got "
            f"{', '.join(entry.filename for entry in entries[:5]) or 'none'}: unpack it and give "
            "the file"
        )
    size, packed = entries[0].file_size, entries[0].compress_size
    if size > max(_BOMB_BYTES, _BOMB_TIMES * packed):
        raise UserError(
            f"{entries[0].filename} in the archive would grow from {packed} to {size} bytes, which "
            "no review does: unpack it and give the file"
        )
    return entries[0]


def parse_json(data: bytes, kind: type, what: str) -> Any:
    """Return a JSON file's list or object.

    Raises:
        UserError: no JSON, or something else in it.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected {what}, got no JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"expected {what}, got a JSON {type(value).__name__}")
    return value


def checked(read: Callable[[], Any], what: str) -> Any:
    """Return what is read.

    Raises:
        UserError: names the entry that does not have the format's form.
    """
    try:
        return read()
    except KeyError as error:
        raise UserError(f"{what} cannot be read: there is no {error}") from error
    except ValueError as error:
        raise UserError(f"{what} cannot be read: {error}") from error
    except NOT_THE_FORMAT as error:
        raise UserError(f"{what} cannot be read: it has another form ({error})") from error


def polygon_pixels(corners: NDArray[np.float64], size_hw: tuple[int, int]) -> Mask:
    """Return the filled polygon (H, W) of corners (N, 2) x, y in pixels."""
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"a polygon needs three corners or more, got shape {corners.shape}")
    return coco_segmentation.pixels([corners.ravel().tolist()], size_hw)
