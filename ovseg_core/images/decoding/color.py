"""Conversion of an image's colours to sRGB, in which networks were trained and browsers show.

Transforms are built once per profile and shared by all threads: they are built without LittleCMS's
cache of the last colour, which is its one state.
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from threading import Lock

import numpy as np
from cachetools import LRUCache, cached
from PIL import Image, ImageCms

from ovseg_core.images.decoding.color_profile import DeclaredColors

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# As image editors do by default. Only of profiles with tables (CMYK) intents differ at all.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
_KEPT = 128
"""Transforms in memory; most collections have fewer profiles."""
_SPACES = {"RGB": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",), "Lab": ("LAB",)}
"""Modes of images that a profile of a colour space can be of."""
_GREY_MODES = ("1", "L", "LA", "La")
_MAX_NAME = 80
_LEVELS = 9


@dataclass(frozen=True)
class _Way:
    """How the colours of images with one profile come to sRGB.

    Attributes:
        transform: None: they stay as they are.
        note: for the image's row.
    """

    transform: ImageCms.ImageCmsTransform | None
    note: str


def to_srgb(
    image: Image.Image, declared: DeclaredColors | None, is_wanted: bool
) -> tuple[Image.Image, str]:
    """Convert an image to sRGB by what its file says about its colours.

    Args:
        image: of 8 bits, with its alpha; alpha is kept.
        declared: what the file says; None: nothing, so that the colours are taken for sRGB.
        is_wanted: False: only note what is there. Lab is converted in any case, as there is no
            other way to show it.

    Returns:
        The image, as it is where there is nothing to convert, and a note: empty, `sRGB` (within one
        grey level), `converted from NAME`, `ignored: NAME` (not wanted) or `not converted: REASON`.
    """
    if image.mode == "LAB":
        return _from_lab(image, declared)
    if declared is None:
        return image, ""
    if declared.problem:
        return image, f"not converted: {declared.problem}"
    is_alpha_kept = image.has_transparency_data
    mode = image.mode if image.mode == "CMYK" else "RGBA" if is_alpha_kept else "RGB"
    if image.mode in _GREY_MODES and _space(declared.icc) == "GRAY":
        mode = "L"
    way = _way(declared.icc, mode)
    if way.transform is None:
        return image, way.note
    if not is_wanted:
        return image, way.note.replace("converted from", "ignored:", 1)
    converted = way.transform.apply(image.convert(mode))
    if mode == "L" and is_alpha_kept:
        converted.putalpha(image.convert("LA").getchannel("A"))
    return converted, way.note


def _from_lab(image: Image.Image, declared: DeclaredColors | None) -> tuple[Image.Image, str]:
    """Convert CIE Lab, by the file's profile if that is one of Lab."""
    own = _way(declared.icc, "LAB").transform if declared else None
    return (own or _lab_transform()).apply(image), "converted from CIE Lab"


@lru_cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.ImageCmsTransform(profile, _SRGB, "LAB", "RGB", _INTENT, flags=_FLAGS)


def _space(icc: bytes) -> str:
    return icc[16:20].decode("latin-1").strip()


@cached(LRUCache(_KEPT), key=lambda icc, mode: (sha256(icc).digest(), mode), lock=Lock())
def _way(icc: bytes, mode: str) -> _Way:
    """Return the way from a profile to sRGB, for images of a mode."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = _name(ImageCms.getProfileDescription(profile))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _Way(None, f"not converted: a damaged profile of {len(icc)} bytes")
    space = _space(icc)
    if mode not in _SPACES.get(space, ()):
        return _Way(None, f"not converted: {name}, a profile of {space}, in an image of {mode}")
    target = mode if mode in ("RGB", "RGBA") else "RGB"
    try:
        transform = ImageCms.ImageCmsTransform(profile, _SRGB, mode, target, _INTENT, flags=_FLAGS)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _Way(None, f"not converted: {name} cannot be used")
    if mode in ("L", "RGB", "RGBA") and _changes_nothing(transform, mode):
        return _Way(None, "sRGB")
    return _Way(transform, f"converted from {name}")


def _name(description: str) -> str:
    """Return a profile's name for a table: printable, in one line."""
    text = " ".join("".join(c if c.isprintable() else " " for c in description).split())
    return text[:_MAX_NAME] or "a profile without a name"


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a transform moves no grey level by more than one."""
    levels = np.linspace(0, 255, _LEVELS if mode != "L" else 256).round().astype(np.uint8)
    if mode == "L":
        before = np.repeat(levels[None, :, None], 3, axis=2)
        image = Image.fromarray(levels[None])
    else:
        before = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        image = Image.fromarray(before).convert(mode)
    after = np.asarray(transform.apply(image).convert("RGB"))
    return bool(np.abs(after.astype(np.int16) - before).max() <= 1)
