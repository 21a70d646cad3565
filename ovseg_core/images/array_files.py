"""Arrays and maps in files of other tools, whose size is checked before memory is taken."""

import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 100_000_000
"""Of one map; as many as an image has by default (`image.max_pixels`)."""
MAX_MASK_PIXELS = 2**29
"""Of all masks of one file together."""
_MAX_ENTRIES_BYTES = 1 << 20
"""Of the list of entries in an NPZ archive."""
_ZIP_END = b"PK\x05\x06"
_MAX_END_BYTES = 1 << 16


def read_npy(file: Path, max_values: int) -> NDArray[Any]:
    """Return the array in an NPY file: numbers or booleans.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, holds other things than numbers, or more than `max_values`.
    """
    with file.open("rb") as stream:
        return _read_array(stream, max_values, file.stat().st_size)


def read_npz(
    file: Path, names: Sequence[str], max_values: int, optional: Sequence[str] = ()
) -> list[NDArray[Any]]:
    """Return the named arrays in an NPZ archive; see `read_npy`.

    Args:
        file: the archive.
        names: of the arrays.
        max_values: of each array.
        optional: those of the names that are left out where the archive lacks them.
    """
    with file.open("rb") as stream:
        _check_entries(stream, file.stat().st_size)
        try:
            with zipfile.ZipFile(stream) as archive:
                return [
                    _read_entry(archive, name, max_values)
                    for name in names
                    if name not in optional or f"{name}.npy" in archive.NameToInfo
                ]
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise ValueError(f"expected an NPZ archive, got a damaged one: {error}") from error


def open_png(file: Path) -> Image.Image:
    """Return a PNG, not yet decoded.

    Raises:
        OSError: it is no PNG.
        ValueError: it has more than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            # Else Pillow takes any format by its content, for some with another program.
            image = Image.open(file, formats=("PNG",))
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has more than {MAX_PIXELS:,} pixels") from error
    if math.prod(image.size) > MAX_PIXELS:
        image.close()
        raise ValueError(f"it has more than {MAX_PIXELS:,} pixels: {image.size}")
    return image


def _check_entries(stream: IO[bytes], size_bytes: int) -> None:
    """Check the length of an archive's list of entries, before Python reads it."""
    stream.seek(max(size_bytes - _MAX_END_BYTES, 0))
    end = stream.read()
    place = end.rfind(_ZIP_END)
    if not 0 <= place <= len(end) - 22:
        raise ValueError("expected an NPZ archive")
    (entries_bytes,) = struct.unpack_from("<I", end, place + 12)
    if entries_bytes > _MAX_ENTRIES_BYTES:
        raise ValueError("expected an NPZ archive of few arrays")


def _read_entry(archive: zipfile.ZipFile, name: str, max_values: int) -> NDArray[Any]:
    info = archive.NameToInfo.get(f"{name}.npy")
    if info is None:
        raise ValueError(f"it has no array {name!r}")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its array {name!r} is encrypted, or packed in an unusual way")
    with archive.open(info) as stream:
        return _read_array(stream, max_values, info.file_size)


def _read_array(stream: IO[bytes], max_values: int, size_bytes: int) -> NDArray[Any]:
    """Return the array in an NPY stream that is to have so many bytes."""
    if npy_format.read_magic(stream) != (1, 0):  # later ones are for names of fields
        raise ValueError("expected an array of numbers (NPY 1.0)")
    shape, is_fortran, dtype = npy_format.read_array_header_1_0(stream)
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ValueError(f"expected an array of numbers, got {dtype!s:.60}")
    if any(size < 0 for size in shape) or math.prod(shape) > max_values:
        raise ValueError(f"expected an array of at most {max_values:,} values, got {shape!s:.60}")
    needed = math.prod(shape) * dtype.itemsize
    if needed > size_bytes:
        raise ValueError(f"it is cut off: {needed:,} bytes are needed, and it has {size_bytes:,}")
    data = stream.read(needed)
    if len(data) < needed:
        raise ValueError(f"it is cut off: {needed:,} bytes are needed, and it has {len(data):,}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
