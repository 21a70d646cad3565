"""Objectness maps of another tool: one file per image in a local folder.

The map of `a/b.jpg` is `FOLDER/a/b.png`, `.npy` or `.npz`. A PNG is grey, 8 or 16 bit; black is
background. An NPY holds (h, w) in [0, 1]. An NPZ holds scored masks of a class-agnostic detector
(CutLER): `masks` (n, h, w) and `scores` (n,). Maps may have any size (docs/methods.md 2).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.array_files import (
    MAX_MASK_PIXELS,
    MAX_PIXELS,
    open_png,
    read_npy,
    read_npz,
)
from ovseg_core.images.batch import Image
from ovseg_core.images.per_image_files import LocalFolder, PerImageFiles
from ovseg_core.segmenter import PluginOptions

SUFFIXES = (".png", ".npy", ".npz")


class Options(PluginOptions):
    """Options of the source `external`."""

    folder: LocalFolder
    """Local folder of the maps, laid out like the collection: for `a/b.jpg` a grey `a/b.png`, an
    array (h, w) in [0, 1] as `a/b.npy`, or scored masks as `a/b.npz`. Every worker needs access to
    it; a run cannot be resumed after its files have changed."""
    min_score: float = 0.3
    """Masks with a lower score are dropped (0.3: CLIP-DIY's value for CutLER)."""


class ExternalMaps:
    """Maps looked up by the image's path.

    Args:
        options: folder and threshold.
        device: of the returned maps.

    Raises:
        ConfigError: the folder does not exist.
    """

    def __init__(self, options: Options, device: torch.device) -> None:
        def load(file: Path) -> Tensor:
            return torch.from_numpy(_load(file, options.min_score))

        option = "method.options.objectness.options.folder"
        self._files = PerImageFiles(options.folder, SUFFIXES, "objectness map", option, load)
        self._device = device

    def maps(self, images: Sequence[Image]) -> tuple[Tensor, ...]:
        """Return the map (h, w) of each image, at the size in its file.

        Raises:
            ConfigError: the batch has no paths.
            ImageError: the map of an image is missing or unreadable.
        """
        return tuple(one.to(self._device) for one in self._files.read(images))


def build(options: Options, backbones: Backbones) -> ExternalMaps:
    """Return the source.

    Raises:
        ConfigError: the folder does not exist.
    """
    return ExternalMaps(options, backbones.device)


def combine_scored(
    masks: NDArray[Any], scores: NDArray[Any], min_score: float
) -> NDArray[np.float32]:
    """Combine scored masks to one map (h, w): sum of score times mask, divided by its maximum.

    Args:
        masks: (n, h, w), 0 or 1.
        scores: (n,), confidence.
        min_score: masks with a lower score are dropped; without any mask the map is zero.
    """
    if masks.ndim != 3 or scores.shape != masks.shape[:1]:
        raise ValueError(
            f"expected masks (n, h, w) and scores (n,), got {masks.shape}, {scores.shape}"
        )
    kept = scores >= min_score
    total = np.tensordot(scores[kept].astype(np.float32), masks[kept].astype(np.float32), axes=1)
    return total / max(float(total.max(initial=0.0)), 1e-12)


def _load(file: Path, min_score: float) -> NDArray[np.float32]:
    if file.suffix == ".png":
        return _load_png(file)
    if file.suffix == ".npz":
        masks, scores = read_npz(file, ("masks", "scores"), MAX_MASK_PIXELS)
        return combine_scored(masks, scores, min_score)
    values = np.array(read_npy(file, MAX_PIXELS), dtype=np.float32, order="C")
    if values.ndim != 2 or not values.size or not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"expected (h, w) in [0, 1], got shape {values.shape}")
    return values


def _load_png(file: Path) -> NDArray[np.float32]:
    with open_png(file) as image:
        deep = image.mode.startswith("I")
        values = np.asarray(image if deep else image.convert("L"), dtype=np.float32)
    return values / np.float32(65535 if deep else 255)
