"""Objectness sources, one file each; the file's name is the name in the config.

Every file has `Options` and `build(options, backbones) -> Objectness`. Objectness is the
probability (0 to 1) that a pixel shows any object.

Shapes: B images of one size, H W pixels, h w cells of a map.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.registry import Backbones, Unseeing
from ovseg_core.images.batch import Image
from schemas import plugins
from schemas.config import NamedOptions

PACKAGE = __name__
WHERE = "method.options.objectness"
"""Dotted path of the source in a job file."""


class Objectness(Protocol):
    """A source of objectness maps."""

    def maps(self, images: Sequence[Image]) -> tuple[Tensor, ...] | None:
        """Return a map (h, w) in [0, 1] per image, float32, at its size or smaller.

        None: there is no objectness, and methods leave their fusion out.
        """
        ...


ObjectnessPart = Annotated[NamedOptions, plugins.Nested(PACKAGE)]
"""Type of a method's option that names an objectness source."""


def build_objectness(part: NamedOptions, backbones: Backbones) -> Objectness:
    """Return the source, ready to use; where no image is encoded, what stands for it.

    Raises:
        ConfigError: an unknown source, an unknown option or a wrong value.
        WeightsError: weights that cannot be found or do not fit.
    """
    options = plugins.read_options(PACKAGE, part, WHERE)
    if not backbones.sees_images:
        return Unseeing()
    return plugins.load_plugin(PACKAGE, part.name).build(options, backbones)


def squashed_maps(maps: tuple[Tensor, ...] | None, side_px: int) -> tuple[Tensor, ...] | None:
    """Resize maps (h, w) of any sizes to a square, bilinearly, aspect lost; None stays None."""
    if maps is None:
        return None
    size = (side_px, side_px)
    return tuple(F.interpolate(one[None, None], size, mode="bilinear")[0, 0] for one in maps)


def by_shape(
    images: Sequence[Image], device: torch.device, compute: Callable[[Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """Apply a batched function to images of many sizes; those of one size form a batch.

    Args:
        images: uint8 (3, H, W) each.
        device: where `compute` runs.
        compute: (B, 3, H, W) -> one row per image.

    Returns:
        The rows in the images' order.
    """
    groups: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    results: dict[int, Tensor] = {}
    for indices in groups.values():
        stacked = torch.stack([images[index] for index in indices]).to(device)
        results.update(zip(indices, compute(stacked), strict=True))
    return tuple(results[index] for index in range(len(images)))
