"""Heads that are trained without labels, one file each; the file's name is the name in the config.

Every file has `Options` and `build(options, backbones, seed) -> HeadTask`. Shapes: B training
images of a batch, S their side.
"""

from typing import Protocol

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import Image
from ovseg_core.segmenter import PluginOptions
from schemas import plugins
from schemas.config import NamedOptions

PACKAGE = __name__


class HeadOptions(PluginOptions):
    """Options of every head; the defaults are the published schedule."""

    steps: PositiveInt
    """Training steps."""
    batch: PositiveInt
    """Images per step."""
    sample: NonNegativeInt = 0
    """Number of images of the collection to train on, drawn with replacement; 0: all."""
    size_px: PositiveInt | None = None
    """Side of a training image; null: the published one, in proportion to the network's input."""


class HeadTask(Protocol):
    """The training of one head: its weights, images and loss. The networks are frozen.

    Attributes:
        weights: the trained tensors, by their names in the file.
        learning_rates: by the same names.
        network_file: weights file of the network whose features the head takes.
        size_px: S.
    """

    weights: dict[str, nn.Parameter]
    learning_rates: dict[str, float]
    network_file: str
    size_px: int

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor of the learning rates at a step, counted from 0."""
        ...

    def view(self, image: Image, rng: np.random.Generator) -> Tensor:
        """Return a random view of an image for one step: pixel values 0..255 (3, S, S)."""
        ...

    def loss(self, pixels_B3SS: Tensor, step: int) -> Tensor:
        """Return the loss (a scalar) of a batch of views."""
        ...


def check_head(part: NamedOptions) -> HeadOptions:
    """Return a head's options, checked.

    Raises:
        ConfigError: an unknown head, an unknown option or a wrong value.
    """
    options = plugins.read_options(PACKAGE, part, "head")
    if not isinstance(options, HeadOptions):
        raise TypeError(f"{part.name}: Options is not a HeadOptions")
    return options


def build_head(part: NamedOptions, backbones: Backbones, seed: int) -> HeadTask:
    """Return a head's training, with random first weights.

    Raises:
        ConfigError: an unknown head, an unknown option or a wrong value.
        WeightsError: networks that cannot be found or do not fit.
    """
    return plugins.load_plugin(PACKAGE, part.name).build(check_head(part), backbones, seed)
