"""What every tool's file comes down to: images that a person has gone through, and their masks."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from schemas.errors import UserError

Mask = NDArray[np.bool_]

NOT_THE_FORMAT = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading raises where a file has a format's names but not its form."""


@dataclass(frozen=True)
class ToolMask:
    """One mask.

    Attributes:
        label: as the tool calls it.
        pixels: (H, W).
        segment_index: the run's segment that it says it came from; None: it does not say.
    """

    label: str
    pixels: Mask
    segment_index: int | None = None


@dataclass(frozen=True)
class ToolImage:
    """One image that was gone through.

    Attributes:
        names: what the tool calls it, the most telling first.
        size_hw: as the tool sees it.
        masks: all that a person left.
        seconds: time spent on it; None: the tool does not tell.
        num_left_out: regions of kinds that are no masks (boxes, points, text).
    """

    names: tuple[str, ...]
    size_hw: tuple[int, int]
    masks: tuple[ToolMask, ...]
    seconds: float | None = None
    num_left_out: int = field(default=0, compare=False)


def member(data: bytes, ending: str) -> bytes:
    """Return a file itself, or the one of this ending in a ZIP archive.

    Raises:
        UserError: a broken archive, or one without or with several such files.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(ending)]
            if len(names) != 1:
                raise UserError(
                    f"expected one {ending} file in the archive, got "
                    f"{', '.join(names[:5]) or 'none'}: unpack it and give the file"
                )
            return archive.read(names[0])
    except zipfile.BadZipFile as error:
        raise UserError(f"the archive is damaged: {error}") from error


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
    except NOT_THE_FORMAT as error:
        raise UserError(f"{what} cannot be read: {error!r}") from error


def coco_pixels(segmentation: Any, size_hw: tuple[int, int]) -> Mask:
    """Return the mask (H, W) of COCO's polygons, plain run lengths or compressed ones."""
    height, width = size_hw
    if isinstance(segmentation, list):
        if any(len(polygon) < 6 for polygon in segmentation):
            raise ValueError("a polygon of fewer than three corners")
        rle: Any = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif list(segmentation["size"]) != [height, width]:
        raise ValueError(f"a mask of size {segmentation['size']} in an image of {[height, width]}")
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)


def polygon_pixels(corners: NDArray[np.float64], size_hw: tuple[int, int]) -> Mask:
    """Return the filled polygon (H, W) of corners (N, 2) x, y in pixels."""
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"a polygon needs three corners or more, got shape {corners.shape}")
    flat = [corners.ravel().tolist()]
    return coco_pixels(flat, size_hw)
