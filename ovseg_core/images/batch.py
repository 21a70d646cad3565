"""Batches of images, with or without their paths and proposals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from ovseg_core.images.proposal_masks import Proposals

Image = torch.Tensor
"""uint8 RGB (3, H, W) on the CPU, of any size; a batch is a sequence of them."""


@dataclass(frozen=True)
class ImageBatch(Sequence[Image]):
    """Images with what is known of them, for the parts of a method that need it.

    Any sequence of images is a batch; this one has more. A slice is again an `ImageBatch`, so that
    a batch can be halved.

    Attributes:
        images: uint8 (3, H, W) each.
        paths: of each image, relative to the collection's root, to look up files by image
            (`external`); None: not known.
        proposals: of each image; None: the method has none.

    Raises:
        ValueError: the numbers of images, paths and proposals differ.
    """

    images: tuple[Image, ...]
    paths: tuple[str, ...] | None = None
    proposals: tuple[Proposals, ...] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for noun, given in (("path", self.paths), ("set of proposals", self.proposals)):
            if given is not None and len(given) != len(self.images):
                raise ValueError(
                    f"expected a {noun} for each of the {len(self.images)} images, got {len(given)}"
                )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageBatch": ...
    def __getitem__(self, index: int | slice) -> "Image | ImageBatch":
        """Return one image, or a slice as a batch."""
        if isinstance(index, slice):
            return ImageBatch(
                self.images[index],
                None if self.paths is None else self.paths[index],
                None if self.proposals is None else self.proposals[index],
            )
        return self.images[index]


def to_tensor(rgb: NDArray[np.uint8]) -> Image:
    """Return decoded pixels (h, w, 3) as networks take them: uint8 (3, h, w), contiguous.

    What `decode` returns lies plane by plane already, so that nothing is copied.
    """
    return torch.from_numpy(np.require(rgb.transpose(2, 0, 1), requirements=("C", "W")))


def with_images(images: Sequence[Image], pixels: Sequence[Image]) -> Sequence[Image]:
    """Return a batch with other pixels of the same images; all else that is known is kept.

    Args:
        images: the batch.
        pixels: uint8 (3, H, W) of each image.
    """
    if isinstance(images, ImageBatch):
        return replace(images, images=tuple(pixels))
    return tuple(pixels)
