"""Proposals from files of another tool, such as SAM's automatic masks.

The proposals of `a/b.jpg` are `FOLDER/a/b.npz` or `.png`. An NPZ holds `masks` (n, h, w), 0 or 1,
which may overlap, and may hold `scores` (n,) in [0, 1], else all are 1. A PNG is an index map, grey
of 8 or 16 bits or with a palette: 0 is no region, each other value is one. Maps may have any size.

Votes are held at the size in the file; everything else sees masks that are reduced until those of
an image have `shared.index_map.MAX_VALUES`. Shapes: n or N masks, h w pixels.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.array_files import MAX_MASK_PIXELS, open_png, read_npz
from ovseg_core.images.batch import Image
from ovseg_core.images.per_image_files import LocalFolder, PerImageFiles
from ovseg_core.images.proposal_masks import INSIDE, OUTSIDE, Proposals, smallest_on_top
from ovseg_core.proposals import WHERE
from ovseg_core.proposals.shared.index_map import of_index_map, reduced_size
from ovseg_core.segmenter import PluginOptions

_SUFFIXES = (".npz", ".png")
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


class Options(PluginOptions):
    """Options of the proposer `folder`."""

    folder: LocalFolder
    """Local folder of masks from another tool, laid out like the collection: for `a/b.jpg` an index
    map `a/b.png`, or `masks` (n, h, w) and perhaps `scores` (n,) as `a/b.npz`. Every worker needs
    access to it; a run cannot be resumed after its files have changed."""


class MaskFiles:
    """Proposals looked up by the image's path.

    Args:
        folder: local.
        device: of the proposals.

    Raises:
        ConfigError: the folder does not exist.
    """

    decode_side_px = 1
    """The image itself is not looked at."""

    def __init__(self, folder: str, device: torch.device) -> None:
        option = f"{WHERE}.options.folder"
        self._files = PerImageFiles(folder, _SUFFIXES, "region masks", option, _load)
        self._device = device

    def proposals(self, images: Sequence[Image]) -> tuple[Proposals, ...]:
        """Return the proposals of each image.

        Raises:
            ConfigError: the batch has no paths.
            ImageError: the file of an image is missing or unreadable.
        """
        return tuple(
            replace(
                one,
                masks_Nhw=one.masks_Nhw.to(self._device),
                scores_N=one.scores_N.to(self._device),
                regions_hw=one.region_map().to(self._device),
            )
            for one in self._files.read(images)
        )


def build(options: Options, backbones: Backbones) -> MaskFiles:
    """Return the proposer.

    Raises:
        ConfigError: the folder does not exist.
    """
    return MaskFiles(options.folder, backbones.device)


def _load(file: Path) -> Proposals:
    if file.suffix == ".png":
        with open_png(file) as image:
            if image.mode not in _INDEX_MODES:
                raise ValueError(f"expected an index map, grey or with a palette, got {image.mode}")
            return of_index_map(torch.from_numpy(np.asarray(image).astype(np.int32)))
    masks, *scores = read_npz(file, ("masks", "scores"), MAX_MASK_PIXELS, optional=("scores",))
    if masks.ndim != 3 or 0 in masks.shape[1:]:
        raise ValueError(f"expected masks (n, h, w), got {masks.shape}")
    given = np.asarray(scores[0] if scores else np.ones(len(masks)), np.float32)
    if given.shape != masks.shape[:1] or not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"expected scores ({len(masks)},) in [0, 1], got {given.shape}")
    return _of_masks(torch.from_numpy(masks.astype(bool)), torch.from_numpy(given))


def _of_masks(masks_Nhw: Tensor, scores_N: Tensor) -> Proposals:
    size_hw = reduced_size(len(masks_Nhw), masks_Nhw.shape[1:])
    small = [F.adaptive_avg_pool2d(mask[None].float(), size_hw)[0] for mask in masks_Nhw]
    shares_Nhw = torch.stack(small) if small else torch.zeros(0, *size_hw)
    values_Nhw = (shares_Nhw * (INSIDE - OUTSIDE) + OUTSIDE).half()
    return Proposals(values_Nhw, scores_N, smallest_on_top(masks_Nhw))
