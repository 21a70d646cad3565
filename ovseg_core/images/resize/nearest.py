"""Nearest-neighbour resize from a method's canvas to the image's size, as indices per axis.

It is separable: for each axis there is a source index per target pixel, or equally the number of
target pixels per source pixel. Most users need no resized array.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

SizeHW = tuple[int, int]
Scalar = TypeVar("Scalar", bound=np.generic)


def nearest_source(num_in: int, num_out: int) -> NDArray[np.int64]:
    """Return the source pixel `floor(i * in / out)` of each target pixel i, in exact integers."""
    return np.arange(num_out, dtype=np.int64) * num_in // num_out


def nearest_counts(num_in: int, num_out: int) -> NDArray[np.int64]:
    """Return the number of target pixels per source pixel; 0 where a reduction skips it."""
    return np.bincount(nearest_source(num_in, num_out), minlength=num_in)


def to_size(label_map: NDArray[Scalar], size_hw: SizeHW) -> NDArray[Scalar]:
    """Resize a label map to `size_hw` by nearest neighbour, as cv2 and torch do."""
    rows = nearest_source(label_map.shape[0], size_hw[0])
    columns = nearest_source(label_map.shape[1], size_hw[1])
    return label_map[rows][:, columns]
