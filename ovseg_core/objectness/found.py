"""FOUND (Simeoni et al., CVPR 2023): a 1x1 convolution on DINO's last-block keys.

The released head was trained on DINO's 300-epoch ViT-S/8. timm's `vit_small_patch8_224.dino` is
another training of the same shape: give the 300-epoch file as `vision.weights` (docs/methods.md
0.4, 3.1).

Shapes: B images, C channels, H W pixels, h w patches.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor

from ovseg_core.backbones.file_formats.head_file import HeadKind, load_head, needed_head
from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vision.vit import TimmViT, VitFeatures
from ovseg_core.embedded import FOUND_HEAD
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.published_sizes import limit_side
from ovseg_core.objectness import by_shape
from ovseg_core.segmenter import PluginOptions
from schemas.config import WeightsName

RELEASED_HEAD = (
    "https://raw.githubusercontent.com/valeoai/FOUND/f9f2ef709002037c5498ce571115ad76b9627c31/"
    "data/weights/decoder_weights.pt"
)
"""The authors' head for DINO ViT-S/8 (Apache-2.0, 385 numbers)."""
HEAD = HeadKind(
    name="found",
    title="FOUND's head",
    network="vision",
    tensors={"decoder.weight": (1, "C", 1, 1), "decoder.bias": (1,)},
    option="method.options.objectness.options.head",
    embedded=FOUND_HEAD,
    released=RELEASED_HEAD,
    licence="Apache-2.0",
)


class Options(PluginOptions):
    """Options of the source `found`."""

    head: WeightsName = ""
    """Weights file of the 1x1 convolution (path or URL); empty: the embedded head for the embedded
    network, else the authors'."""
    max_side_px: NonNegativeInt = 672
    """Images with a longer side are reduced to it first, as the cost grows with the square of the
    pixels; images of COCO and VOC are smaller. 0: never."""

    def needed_weights(self, backbones: Backbones, where: str) -> Iterator[NeededWeights]:
        """Yield the network and its head."""
        yield backbones.needed_network(backbones.vision_model, where)
        yield needed_head(HEAD, self.head, backbones)


class FoundObjectness:
    """Objectness from last-block keys.

    Args:
        vision: the network that the head was trained on.
        weight: (1, C, 1, 1).
        bias: (1,).
        max_side_px: see `Options`.
    """

    def __init__(self, vision: TimmViT, weight: Tensor, bias: Tensor, max_side_px: int) -> None:
        self._vision = vision
        self._weight = weight.to(vision.device)
        self._bias = bias.to(vision.device)
        self._max_side_px = max_side_px

    @torch.inference_mode()
    def maps(self, images: Sequence[Image]) -> tuple[Tensor, ...]:
        """Return a probability map (H, W) per image, at its size or reduced."""
        reduced = [limit_side(image, self._max_side_px) for image in images]
        return by_shape(reduced, self._vision.device, self._probabilities)

    def _probabilities(self, pixels_B3HW: Tensor) -> Tensor:
        """Return the probabilities (B, H, W) of images of one size."""
        logits_B1hw = self.patch_logits(self._vision.forward_trunk(pixels_B3HW))
        patch_px = float(self._vision.patch_px)
        logits = F.interpolate(logits_B1hw, scale_factor=patch_px, mode="bilinear")
        height, width = pixels_B3HW.shape[-2:]
        return logits[:, 0, :height, :width].sigmoid()

    def patch_probabilities(self, pixels_B3HW: Tensor) -> Tensor:
        """Return the probabilities (B, 1, h, w) of the patches of images of one size."""
        return self.patch_logits(self._vision.forward_trunk(pixels_B3HW)).sigmoid()

    def patch_logits(self, trunk: VitFeatures) -> Tensor:
        """Return the head's logits (B, 1, h, w)."""
        return F.conv2d(self._vision.features_of(trunk, "k"), self._weight, self._bias)


def build(options: Options, backbones: Backbones) -> FoundObjectness:
    """Load the head and its network.

    Raises:
        WeightsError: the head is missing or belongs to another network.
    """
    head = load_head(HEAD, options.head, backbones)
    weight, bias = head["decoder.weight"], head["decoder.bias"]
    return FoundObjectness(backbones.vision, weight, bias, options.max_side_px)
