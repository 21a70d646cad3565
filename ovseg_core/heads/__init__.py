"""Heads that are trained without labels, one file each; the file's name is the name in the config.

Every file has `Options` and `build(options, backbones, seed) -> HeadTask`. Shapes: B images of one
batch, S side of a training image.
"""

from typing import Protocol

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import Image
from ovseg_core.segmenter import MethodOptions
from schemas import plugins
from schemas.config import NamedOptions

PACKAGE = __name__


class HeadOptions(MethodOptions):
    """Options of every head; each has its published schedule as defaults."""

    steps: PositiveInt
    """Batches."""
    batch: PositiveInt
    """Images of a step."""
    sample: NonNegativeInt = 0
    """Train on so many images of the collection, drawn with replacement; 0: on all."""
    size_px: PositiveInt | None = None
    """Side of the square that an image becomes; null: the published one, in proportion to the
    network's own input."""


class HeadTask(Protocol):
    """What one head learns, and from what; everything but its weights is frozen.

    Attributes:
        weights: what is trained, by the names in the file.
        rates: learning rate of each.
        network_file: weights of the network that the head reads; it belongs to no other.
        size_px: S.
    """

    weights: dict[str, nn.Parameter]
    rates: dict[str, float]
    network_file: str
    size_px: int

    def rate_factor(self, step: int) -> float:
        """Return what multiplies the rates at a step, counted from 0."""
        ...

    def view(self, image: Image, rng: np.random.Generator) -> Tensor:
        """Return one image as it is shown in one step: grey levels 0..255 (3, S, S)."""
        ...

    def loss(self, pixels_B3SS: Tensor, step: int) -> Tensor:
        """Return the loss of a batch of views."""
        ...


def check_head(part: NamedOptions) -> HeadOptions:
    """Return a head's options, checked.

    Raises:
        ConfigError: an unknown head, an unknown option or a wrong value.
    """
    options = plugins.read_options(PACKAGE, part, "head")
    if not isinstance(options, HeadOptions):
        raise TypeError(f"{part.name}: Options is no HeadOptions")
    return options


def build_head(part: NamedOptions, backbones: Backbones, seed: int) -> HeadTask:
    """Return a head to be trained, with weights drawn by the seed.

    Raises:
        ConfigError: an unknown head, an unknown option or a wrong value.
        WeightsError: networks that cannot be found or do not fit.
    """
    return plugins.load(PACKAGE, part.name).build(check_head(part), backbones, seed)
