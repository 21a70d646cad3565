"""Masks, sizes and ids of COCO files that other tools wrote, checked before they are used.

pycocotools does not check: it decodes run lengths that end early to whatever is in memory, and
corners that are not numbers or far outside of the image end the process.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.rle.check import check_counts
from ovseg_core.rle.encode import decode_rle
from ovseg_core.rle.runs import run_lengths
from schemas.untrusted import MAX_PIXELS

_MAX_OUTLINE_PX = 1 << 22
"""Length of a mask's outlines, each side longer by one: pycocotools takes some hundred bytes for
each pixel of them."""


def parse_size_hw(height: Any, width: Any) -> tuple[int, int]:
    """Return an image's size as integers.

    Raises:
        OverflowError, ValueError: they are not numbers of pixels, or the image is too large.
    """
    whole = all(
        isinstance(side, int | float) and not isinstance(side, bool) and side == int(side)
        for side in (height, width)
    )
    if not whole or min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"expected a width and a height in pixels, got {width!r} and {height!r}")
    return int(height), int(width)


def parse_id(value: Any) -> str:
    """Return an id as text: some tools write 7, some "7", some 7.0.

    Raises:
        ValueError: the id is neither a number nor text.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int):
        return str(value)
    raise ValueError(f"expected an id, got {value!r}")


def decode_segmentation(segmentation: Any, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask (H, W) of a COCO segmentation: polygons, plain or compressed run lengths.

    Raises:
        LookupError, TypeError, ValueError: it is none of these, or of another size.
    """
    return decode_rle(compress_segmentation(segmentation, size_hw), size_hw).astype(bool)


def compress_segmentation(segmentation: Any, size_hw: tuple[int, int]) -> str:
    """Return a COCO segmentation as compressed run lengths, in their one canonical form.

    Raises:
        LookupError, TypeError, ValueError: as for `decode_segmentation`.
    """
    height, width = size_hw
    if isinstance(segmentation, list):
        polygons = [_corners(polygon, size_hw) for polygon in segmentation]
        if sum(map(_outline_px, polygons)) > _MAX_OUTLINE_PX:
            raise ValueError(f"expected polygons with outlines of at most {_MAX_OUTLINE_PX} pixels")
        return _drawn([corners.tolist() for corners in polygons], size_hw)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(
            f"expected a mask of the image's size {[height, width]}, got {segmentation['size']}"
        )
    counts = segmentation["counts"]
    lengths = _lengths(counts, size_hw) if isinstance(counts, list) else _unpacked(counts, size_hw)
    plain: Any = {"size": [height, width], "counts": _without_empty_runs(lengths)}
    rle: Any = coco_mask.frPyObjects(plain, height, width)
    return rle["counts"].decode("ascii")


def _without_empty_runs(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join runs that an empty run divides; only the first run may be empty."""
    if lengths[1:].all():
        return lengths
    filled = lengths > 0
    values = (np.arange(len(lengths)) % 2)[filled]
    begin = np.flatnonzero(np.diff(values, prepend=-1))
    joined = np.add.reduceat(lengths[filled], begin)
    return np.append(0, joined) if values[0] else joined


def encode_mask(mask: NDArray[np.bool_]) -> str:
    """Return the compressed run lengths of a mask (H, W)."""
    rle: Any = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return rle["counts"].decode("ascii")


def _unpacked(counts: Any, size_hw: tuple[int, int]) -> NDArray[np.int64]:
    if not isinstance(counts, str):
        raise ValueError(f"expected run lengths as a text or a list, got {str(counts)[:20]!r}")
    check_counts(counts, size_hw)
    return run_lengths(counts)


def _lengths(counts: list[Any], size_hw: tuple[int, int]) -> NDArray[np.int64]:
    lengths = np.array(counts, np.float64)
    whole = (lengths == np.floor(lengths)) & (lengths >= 0) & (lengths <= MAX_PIXELS)
    if lengths.ndim != 1 or not whole.all():
        raise ValueError("expected run lengths in whole pixels")
    # Each is so small that the sum of all that fit into memory is exact.
    if lengths.sum() != size_hw[0] * size_hw[1]:
        raise ValueError(
            f"expected run lengths of {size_hw[0] * size_hw[1]} pixels in all, got "
            f"{lengths.sum():.0f}"
        )
    return lengths.astype(np.int64)


def _corners(polygon: Any, size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return x, y, x, y, ... (2 N,) unchanged; corners a little outside of the image are usual."""
    corners = np.array(polygon, np.float64)
    if corners.ndim != 1 or len(corners) % 2:
        raise ValueError("expected a polygon as a list x, y, x, y, ...")
    far = np.tile(size_hw[::-1], len(corners) // 2)
    if not ((corners >= -far) & (corners <= 2 * far)).all():
        raise ValueError("expected corners of a polygon in or near the image")
    return corners


def _outline_px(corners: NDArray[np.float64]) -> float:
    sides = np.abs(np.diff(corners.reshape(-1, 2), axis=0, append=corners[None, :2]))
    return float(sides.max(axis=1, initial=0).sum()) + len(sides)


def _drawn(polygons: list[list[float]], size_hw: tuple[int, int]) -> str:
    if not polygons:
        raise ValueError("expected at least one polygon")
    # Two corners enclose nothing, and pycocotools would take them for a box.
    solid: Any = [corners for corners in polygons if len(corners) >= 6]
    if not solid:
        return encode_mask(np.zeros(size_hw, bool))
    rle: Any = coco_mask.merge(coco_mask.frPyObjects(solid, *size_hw))
    return rle["counts"].decode("ascii")
