"""EXIF orientations 1 to 8: from the stored frame to the frame that a person sees."""

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

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
_SHORT = 3


def is_orientation(value: object) -> bool:
    """Return whether an EXIF value is an orientation that changes the frame."""
    return isinstance(value, int) and value in _TRANSPOSE


def orientation_of(exif: bytes) -> int:
    """Return the orientation of an EXIF block as browsers read it; 1 where it has none.

    Only a number of the type SHORT in the first directory counts; Pillow's reader also takes other
    types, and XMP's orientation.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return 1
        [start] = struct.unpack_from(f"{order}I", tiff, 4)
        [entries] = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == ExifTags.Base.Orientation and kind == _SHORT and count == 1:
                return value if is_orientation(value) else 1
    except struct.error:  # damaged metadata says nothing about the pixels
        return 1
    return 1


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
