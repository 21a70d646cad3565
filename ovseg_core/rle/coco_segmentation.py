"""COCO's three ways to write a mask, its sizes and its ids, read with care.

pycocotools trusts what it is given: run lengths that end early come back with whatever was in the
memory, and corners that are no numbers or far away end the process.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.rle.encode import decode
from ovseg_core.rle.runs import run_lengths

Mask = NDArray[np.bool_]

_MOST_PIXELS = 1 << 30
"""No image is larger; a file that says so would only take all memory."""


def size_hw(height: Any, width: Any) -> tuple[int, int]:
    """Return an image's size as whole numbers.

    Raises:
        OverflowError, ValueError: no numbers of pixels, or of an image beyond all bounds.
    """
    whole = all(isinstance(side, int | float) and side == int(side) for side in (height, width))
    if not whole or min(height, width) < 1 or height * width > _MOST_PIXELS:
        raise ValueError(f"expected a width and a height in pixels, got {width!r} and {height!r}")
    return int(height), int(width)


def id_of(value: Any) -> str:
    """Return an id as text: some tools write 7, some "7", some 7.0.

    Raises:
        ValueError: no number and no text.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int):
        return str(value)
    raise ValueError(f"expected an id, got {value!r}")


def pixels(segmentation: Any, size_hw: tuple[int, int]) -> Mask:
    """Return the mask (H, W) of COCO's polygons, plain run lengths or compressed ones.

    Raises:
        LookupError, TypeError, ValueError: none of these, or of another size.
    """
    return decode(counts(segmentation, size_hw), size_hw).astype(bool)


def counts(segmentation: Any, size_hw: tuple[int, int]) -> str:
    """Return the same as compressed run lengths: those that every encoder writes for this mask.

    Raises:
        LookupError, TypeError, ValueError: as above.
    """
    height, width = size_hw
    if isinstance(segmentation, list):
        return _drawn([_corners(polygon, size_hw) for polygon in segmentation], size_hw)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"a mask of size {segmentation['size']} in an image of {[height, width]}")
    lengths = _lengths(segmentation["counts"])
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(
            f"run lengths that do not fill the image: {lengths.sum()} pixels of {height * width}"
        )
    plain: Any = {"size": [height, width], "counts": _without_empty_runs(lengths)}
    rle: Any = coco_mask.frPyObjects(plain, height, width)
    return rle["counts"].decode("ascii")


def _without_empty_runs(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join what an empty run divides; only the first may be empty."""
    if lengths[1:].all():
        return lengths
    filled = lengths > 0
    values = (np.arange(len(lengths)) % 2)[filled]
    begin = np.flatnonzero(np.diff(values, prepend=-1))
    joined = np.add.reduceat(lengths[filled], begin)
    return np.append(0, joined) if values[0] else joined


def packed(pixels: Mask) -> str:
    """Return the compressed run lengths of a mask (H, W)."""
    rle: Any = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    return rle["counts"].decode("ascii")


def _lengths(counts: Any) -> NDArray[np.int64]:
    if not isinstance(counts, list):
        return run_lengths(counts)
    lengths = np.array(counts, np.float64)
    whole = (lengths == np.floor(lengths)) & (np.abs(lengths) <= _MOST_PIXELS)
    if lengths.ndim != 1 or not whole.all():
        raise ValueError("run lengths that are no whole numbers of pixels")
    return lengths.astype(np.int64)


def _corners(polygon: Any, size_hw: tuple[int, int]) -> list[float]:
    """Return x, y, x, y, ... as they are; a little outside of the image is usual."""
    corners = np.array(polygon, np.float64)
    if corners.ndim != 1 or len(corners) % 2:
        raise ValueError("a polygon that is no list of x, y, x, y, ...")
    far = np.tile(size_hw[::-1], len(corners) // 2)
    if not ((corners >= -far) & (corners <= 2 * far)).all():
        raise ValueError("a polygon with a corner that is no number or far outside of its image")
    return corners.tolist()


def _drawn(polygons: list[list[float]], size_hw: tuple[int, int]) -> str:
    if not polygons:
        raise ValueError("a mask without polygons")
    # Two corners enclose nothing, and pycocotools would take them for a box.
    solid: Any = [corners for corners in polygons if len(corners) >= 6]
    if not solid:
        return packed(np.zeros(size_hw, bool))
    rle: Any = coco_mask.merge(coco_mask.frPyObjects(solid, *size_hw))
    return rle["counts"].decode("ascii")
