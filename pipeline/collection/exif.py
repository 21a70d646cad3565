"""EXIF orientations 1 to 8: from the stored frame to the frame that a person sees."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation 1, and every other number, is no turn."""


def is_orientation(value: object) -> bool:
    """Return whether an EXIF value is an orientation that changes the frame."""
    return isinstance(value, int) and value in _TRANSPOSE


def swaps_sides(orientation: int) -> bool:
    """Return whether an orientation exchanges height and width."""
    return orientation >= 5


def inverse_orientation(orientation: int) -> int:
    """Return the orientation whose turn takes the turn of another one back."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def upright_image(image: Image.Image, orientation: int) -> Image.Image:
    """Return a stored image as it is displayed; the same object where there is nothing to do."""
    turn = _TRANSPOSE.get(orientation)
    return image if turn is None else image.transpose(turn)


def upright_mask(mask: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    """Return a mask (H, W) of the stored frame, made by a tool that ignores EXIF, as displayed."""
    stored = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(upright_image(stored, orientation)) > 0
