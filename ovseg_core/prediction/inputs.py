"""The forms in which a caller has an image, as pixels."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ovseg_core.embedded import SCENE_HEAD_BYTES, SCENE_MARK
from ovseg_core.images.decoding.decode import DecodedImage, decode, from_pillow
from schemas.config import ImageConfig
from schemas.errors import ImageError, UserError

ImageInput = str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | torch.Tensor
"""One image: the path of a file; a Pillow image; an array (H, W, 3) or (H, W) of uint8; or a tensor
(3, H, W) of uint8. Colours are RGB."""


def pixels_of(image: ImageInput, config: ImageConfig, side_px: int) -> DecodedImage:
    """Return an image's pixels; those of a file are the pixels that a job would see.

    Args:
        image: in any form.
        config: limits, and what becomes of colour profiles.
        side_px: pixels on the shorter side that are enough, see `decode`; 0: full size.

    Raises:
        UserError: something else, or a file that cannot be read.
        ImageError: the image cannot be decoded; the message names it.
    """
    try:
        if isinstance(image, str | os.PathLike):
            return decode(_content(image), config, side_px)
        if isinstance(image, Image.Image):
            return from_pillow(image, config)
    except ImageError as error:
        raise ImageError(error.code, f"{name_of(image)}: {error.message}") from None
    pixels = _as_array(image)
    return DecodedImage(pixels, pixels.shape[0], pixels.shape[1], exif_orientation=1)


def content_key(image: ImageInput) -> str:
    """Return a text that tells an image's content from any other; a file is known by its facts."""
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        try:
            status = path.stat()
        except (OSError, ValueError):
            return os.fspath(image)  # reading it says why
        return f"{path.absolute()} {status.st_mtime_ns} {status.st_size} {status.st_ino}"
    if isinstance(image, Image.Image):
        facts = (
            image.mode,
            image.size,
            image.format,
            image.getpalette(),
            sorted(map(str, image.info.items())),
        )
        return f"{facts} {hashlib.sha256(image.tobytes()).hexdigest()}"
    pixels = _as_array(image)
    return f"{pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}"


def name_of(image: ImageInput) -> str:
    """Return the path of an image, with `/`; empty where it has none."""
    if isinstance(image, str | os.PathLike):
        return Path(image).as_posix()
    return str(getattr(image, "filename", ""))


def is_drawn_scene(image: ImageInput) -> bool:
    """Return whether `ovseg demo` drew an image, as its file says."""
    if isinstance(image, Image.Image):
        return SCENE_MARK in image.info
    if not isinstance(image, str | os.PathLike):
        return False
    try:
        with Path(image).expanduser().open("rb") as file:
            return SCENE_MARK.encode() in file.read(SCENE_HEAD_BYTES)
    except (OSError, ValueError):
        return False


def _content(path: str | os.PathLike[str]) -> bytes:
    """Return a local file's content."""
    name = os.fspath(path)
    if "://" in name:
        raise UserError(
            f"{name}: expected a file of this machine; `ovseg annotate` reads buckets and URLs"
        )
    try:
        return Path(path).expanduser().read_bytes()
    except IsADirectoryError:
        raise UserError(
            f"{name} is a folder, expected an image: give a list of its files, such as "
            f"sorted(Path({name!r}).glob('*.jpg')), or run `ovseg annotate --images {name}`"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: cannot be read: {reason}") from None


def _as_array(image: Any) -> NDArray[np.uint8]:
    """Return an array or tensor as uint8 (H, W, 3)."""
    shown = type(image).__name__
    pixels: NDArray[np.uint8] | None = None
    if isinstance(image, torch.Tensor):
        shown = f"a tensor {tuple(image.shape)} of {str(image.dtype).removeprefix('torch.')}"
        if image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3:
            pixels = image.permute(1, 2, 0).cpu().numpy()
    elif isinstance(image, np.ndarray):
        shown = f"an array {image.shape} of {image.dtype}"
        if image.dtype == np.uint8 and image.ndim == 2:
            pixels = np.repeat(image[:, :, None], 3, axis=2)
        elif image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            pixels = image
    if pixels is None or not pixels.size:
        raise UserError(
            "expected an image: a path, a Pillow image, an array (height, width, 3) of uint8, or "
            f"a tensor (3, height, width) of uint8; got {shown}"
        )
    return pixels
