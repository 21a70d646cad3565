"""Superpixels: a partition of the image along its edges, by scikit-image, without any weights.

Felzenszwalb and Huttenlocher (IJCV 2004) join pixels of like colour, so that regions have the
shape of what they show; SLIC (Achanta et al., TPAMI 2012) makes compact ones of about equal size.
They are small parts of objects: a vote in each moves the edges of masks to edges of the image, but
as instances they would be fragments.

Shapes: H W pixels of the reduced image.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import Image
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.proposals.shared.index_map import of_index_map
from ovseg_core.segmenter import PluginOptions
from schemas.errors import ConfigError

MAX_REGIONS = 5000
"""What `min_area` and `num_regions` can ask for; dividing large ones adds to them."""
_LIBRARY = "skimage.segmentation"


class Options(PluginOptions):
    """Options of the proposer `superpixels`."""

    algorithm: Literal["felzenszwalb", "slic"] = "felzenszwalb"
    """`felzenszwalb`: regions in the shape of what they show; `slic`: compact ones of about equal
    size."""
    max_side_px: Annotated[int, Field(ge=16, le=4096)] = 640
    """A larger image is reduced to this longest side first."""
    sigma: NonNegativeFloat = 0.8
    """Standard deviation of the Gaussian that smooths the image first, in pixels of the reduced
    image."""
    scale: PositiveFloat = 20.0
    """Of `felzenszwalb`: larger numbers make larger regions."""
    min_area: Annotated[float, Field(ge=1 / MAX_REGIONS, le=1)] = 2e-4
    """Of `felzenszwalb`: a region with a smaller share of the image joins a neighbour."""
    max_area: Annotated[float, Field(ge=1 / MAX_REGIONS, le=1)] = 0.05
    """A region with a larger share of the image, such as a plain wall, is divided along a grid:
    what it shows has no edge to vote on, and a small object of its colour must not lose all."""
    num_regions: Annotated[PositiveInt, Field(le=MAX_REGIONS)] = 1000
    """Of `slic`: about so many regions."""
    compactness: PositiveFloat = 10.0
    """Of `slic`: how much nearness counts beside colour; larger numbers make squarer regions."""


class Superpixels:
    """The proposer; see the module.

    Args:
        options: its options.
        device: of the proposals; they are computed on the CPU.

    Raises:
        ConfigError: scikit-image is missing.
    """

    def __init__(self, options: Options, device: torch.device) -> None:
        self._options = options
        self._device = device
        self._library = _library()
        self.decode_side_px = options.max_side_px

    def proposals(self, images: Sequence[Image]) -> tuple[Proposals, ...]:
        """Return the superpixels of each image: every pixel is in one, all have the score 1."""
        return tuple(self._of_image(image) for image in images)

    def _of_image(self, image: Image) -> Proposals:
        regions_HW = self._regions(_reduced(image, self._options.max_side_px))
        divided_HW = divided(regions_HW, self._options.max_area)
        found = of_index_map(torch.from_numpy(divided_HW + 1))
        return replace(
            found,
            masks_Nhw=found.masks_Nhw.to(self._device),
            scores_N=found.scores_N.to(self._device),
            regions_hw=found.region_map().to(self._device),
        )

    def _regions(self, rgb_HW3: NDArray[np.float32]) -> NDArray[np.int64]:
        options = self._options
        if options.algorithm == "slic":
            return self._library.slic(
                rgb_HW3,
                options.num_regions,
                options.compactness,
                sigma=options.sigma,
                start_label=0,
            )
        height, width = rgb_HW3.shape[:2]
        return self._library.felzenszwalb(
            rgb_HW3, options.scale, options.sigma, math.ceil(options.min_area * height * width)
        )


def build(options: Options, backbones: Backbones) -> Superpixels:
    """Return the proposer.

    Raises:
        ConfigError: scikit-image is missing.
    """
    backbones.note_setting("superpixels", options.algorithm)
    return Superpixels(options, backbones.device)


def divided(regions_HW: NDArray[np.int64], max_area: float) -> NDArray[np.int64]:
    """Return a partition in which regions of more than a share of the image are divided.

    Args:
        regions_HW: number of each pixel's region, from 0.
        max_area: the share. They are divided along a grid whose cells have at most this share,
            rounded to whole pixels.

    Returns:
        Regions numbered from 0, by their number before and then by cell.
    """
    large = np.bincount(regions_HW.ravel()) > max_area * regions_HW.size
    if not large.any():
        return regions_HW
    height, width = regions_HW.shape
    across = math.ceil(1 / math.sqrt(max_area))
    cells_HW = (np.arange(height) * across // height)[:, None] * across + (
        np.arange(width) * across // width
    )[None]
    keys_HW = regions_HW * across**2 + np.where(large[regions_HW], cells_HW, 0)
    return np.unique(keys_HW, return_inverse=True)[1].reshape(height, width)


def _reduced(image: Image, max_side_px: int) -> NDArray[np.float32]:
    """Return an image (H, W, 3) in [0, 1], reduced by area to a longest side."""
    height, width = image.shape[1:]
    factor = min(1.0, max_side_px / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    pixels_13HW = image[None].float() / 255
    if factor < 1:
        pixels_13HW = F.interpolate(pixels_13HW, size, mode="area")
    return np.ascontiguousarray(pixels_13HW[0].permute(1, 2, 0).numpy())


def _library() -> Any:
    try:
        return importlib.import_module(_LIBRARY)
    except ImportError as error:
        raise ConfigError(
            "the proposer `superpixels` needs scikit-image: pip install 'ovseg[superpixels]', or "
            "choose another one"
        ) from error
