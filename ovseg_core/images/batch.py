"""Batches of images, with or without their paths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

Image = torch.Tensor
"""uint8 RGB (3, H, W) on the CPU, of any size; a batch is a sequence of them."""


@dataclass(frozen=True)
class ImageBatch(Sequence[Image]):
    """Images with their paths, for plug-ins that look up files by image (`external`).

    Any sequence of images is a batch; this one has the paths as well. A slice is again an
    `ImageBatch`, so that a batch can be halved.

    Attributes:
        images: uint8 (3, H, W) each.
        paths: of each image, relative to the collection's root.

    Raises:
        ValueError: the numbers of images and paths differ.
    """

    images: tuple[Image, ...]
    paths: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the number of paths."""
        if len(self.images) != len(self.paths):
            raise ValueError(
                f"expected a path per image, got {len(self.images)} images, {len(self.paths)} paths"
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
            return ImageBatch(self.images[index], self.paths[index])
        return self.images[index]


def to_tensor(rgb: NDArray[np.uint8]) -> Image:
    """Return decoded pixels (h, w, 3) as networks take them: uint8 (3, h, w), contiguous.

    What `decode` returns lies plane by plane already, so that nothing is copied.
    """
    return torch.from_numpy(np.require(rgb.transpose(2, 0, 1), requirements=("C", "W")))


def with_images(images: Sequence[Image], pixels: Sequence[Image]) -> Sequence[Image]:
    """Return a batch with other pixels of the same images; paths, if any, are kept.

    Args:
        images: the batch.
        pixels: uint8 (3, H, W) of each image.
    """
    if isinstance(images, ImageBatch):
        return ImageBatch(tuple(pixels), images.paths)
    return tuple(pixels)
