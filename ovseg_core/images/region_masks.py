"""Region maps from masks of another tool, such as SAM's automatic masks.

The masks of `a/b.jpg` are `FOLDER/a/b.npz` or `.png`. An NPZ holds `masks` (n, h, w), 0 or 1, which
may overlap: a pixel belongs to the smallest mask that covers it (other arrays, such as `scores`,
are ignored). A PNG is an index map, grey of 8 or 16 bits or with a palette: 0 is no region, each
other value is one. Maps may have any size. Shapes: n masks, h w pixels of the file.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.images.array_files import MAX_MASK_PIXELS, open_png, read_npz
from ovseg_core.images.per_image_files import PerImageFiles

_SUFFIXES = (".npz", ".png")
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


def region_masks(folder: str, option: str) -> PerImageFiles:
    """Return a reader of region maps (h, w): int32, -1 is no region.

    Args:
        folder: local, laid out like the collection; every worker needs access to it.
        option: dotted option that names it, for messages.

    Raises:
        ConfigError: the folder does not exist.
    """
    return PerImageFiles(folder, _SUFFIXES, "region masks", option, _load)


def smallest_on_top(masks: NDArray[Any]) -> NDArray[np.int32]:
    """Combine masks (n, h, w) that may overlap to a region map (h, w), int32; -1: no mask.

    Of masks of equal area the first is on top.

    Raises:
        ValueError: not (n, h, w), or without pixels.
    """
    if masks.ndim != 3 or 0 in masks.shape[1:]:
        raise ValueError(f"expected masks (n, h, w), got {masks.shape}")
    areas = np.array([np.count_nonzero(mask) for mask in masks])
    regions = np.full(masks.shape[1:], -1, np.int32)
    # From the largest to the smallest, so that the smallest overwrites the others.
    for number in np.argsort(areas, kind="stable")[::-1]:
        regions[masks[number].astype(bool)] = number
    return regions


def _load(file: Path) -> Tensor:
    if file.suffix == ".png":
        with open_png(file) as image:
            if image.mode not in _INDEX_MODES:
                raise ValueError(f"expected an index map, grey or with a palette, got {image.mode}")
            return torch.from_numpy(np.asarray(image).astype(np.int32) - 1)
    (masks,) = read_npz(file, ("masks",), MAX_MASK_PIXELS)
    return torch.from_numpy(smallest_on_top(masks))
