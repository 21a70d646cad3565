"""Masks of tools that ignore EXIF, turned into the frame that a person sees."""

import numpy as np
from numpy.typing import NDArray

FIRST_SIDEWAYS = 5
"""EXIF orientations from here on exchange height and width."""


def upright(pixels: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    """Return a mask (H, W) of the stored frame as it is displayed under an EXIF orientation."""
    turns = {
        2: lambda mask: mask[:, ::-1],
        3: lambda mask: mask[::-1, ::-1],
        4: lambda mask: mask[::-1],
        5: lambda mask: mask.T,
        6: lambda mask: np.rot90(mask, -1),
        7: lambda mask: mask[::-1, ::-1].T,
        8: lambda mask: np.rot90(mask),
    }
    return np.ascontiguousarray(turns.get(orientation, lambda mask: mask)(pixels))
