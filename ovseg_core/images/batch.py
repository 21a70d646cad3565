"""A batch of images, which may know their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch

Image = torch.Tensor
"""uint8 (3, H, W) RGB on the CPU, any size; a batch is a sequence of them."""


@dataclass(frozen=True)
class ImageBatch(Sequence[Image]):
    """Images that know their names, for parts that look something up by image (`external`).

    Any sequence of images is a batch; this one carries the collection's paths along. A slice of
    it is again an `ImageBatch`, so that a batch can be halved.

    Attributes:
        images: uint8 (3, H, W) each.
        paths: relative to the collection's root, one for each image.
    """

    images: tuple[Image, ...]
    paths: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a name too many or too few."""
        if len(self.images) != len(self.paths):
            raise ValueError(f"{len(self.images)} images came with {len(self.paths)} paths")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageBatch": ...
    def __getitem__(self, index: int | slice) -> "Image | ImageBatch":
        """Return one image, or the batch of a slice."""
        if isinstance(index, slice):
            return ImageBatch(self.images[index], self.paths[index])
        return self.images[index]


def with_images(images: Sequence[Image], pixels: Sequence[Image]) -> Sequence[Image]:
    """Return a batch of other pixels for the same images: the paths, if any, are kept."""
    if isinstance(images, ImageBatch):
        return ImageBatch(tuple(pixels), images.paths)
    return tuple(pixels)
