"""FOUND's training-free objectness (Simeoni et al., CVPR 2023).

The patch with the least attention of the class token is the background seed; patches similar to it
are background, the rest is foreground (docs/methods.md 3.2).

Shapes: B images, N patches = h * w, H heads in BHN (elsewhere pixels: H W), d head width, C
channels = heads * d.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vision.vit import TimmViT, VitFeatures
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.published_sizes import limit_side
from ovseg_core.objectness import by_shape
from ovseg_core.segmenter import PluginOptions


class Options(PluginOptions):
    """Options of the source `found_bkg`."""

    threshold: float = 0.3
    """Patches whose cosine similarity with the background seed is higher are background."""
    epsilon: PositiveFloat = 1e-10
    """Keeps the logarithm finite for a head without attention above the mean."""
    max_side_px: NonNegativeInt = 672
    """Images with a longer side are reduced to it first; 0: never."""

    def needed_weights(self, backbones: Backbones, where: str) -> Iterator[NeededWeights]:
        """Yield the network."""
        yield backbones.needed_network(backbones.vision_model, where)


class FoundBackground:
    """Foreground as the complement of patches similar to the least attended one.

    Args:
        vision: a network whose class token attends to objects (DINO).
        options: threshold and size limit.
    """

    def __init__(self, vision: TimmViT, options: Options) -> None:
        self._vision = vision
        self._options = options

    @torch.inference_mode()
    def maps(self, images: Sequence[Image]) -> tuple[Tensor, ...]:
        """Return a 0/1 foreground map (H, W) per image, at its size or reduced."""
        reduced = [limit_side(image, self._options.max_side_px) for image in images]
        return by_shape(reduced, self._vision.device, self._foreground)

    def _foreground(self, pixels_B3HW: Tensor) -> Tensor:
        """Return 0/1 maps (B, H, W) of images of one size."""
        background_Bhw = self.background(self._vision.forward_trunk(pixels_B3HW))
        size = pixels_B3HW.shape[-2:]
        # The authors enlarge the patch mask to the image and threshold it at one half.
        enlarged = F.interpolate(1 - background_Bhw[:, None], size=size, mode="bilinear")
        return (enlarged[:, 0] > 0.5).float()

    def background(self, trunk: VitFeatures) -> Tensor:
        """Return 1 for background patches, else 0, as float32 (B, h, w)."""
        attention_BHN = self._vision.class_attention(trunk)
        attended_BH = (attention_BHN > attention_BHN.mean(dim=(1, 2), keepdim=True)).float().mean(2)
        epsilon = self._options.epsilon
        total_B1 = (attended_BH + epsilon).sum(dim=1, keepdim=True)
        # Heads that attend to a small part of the image attend to objects: they weigh more.
        weights_BH1 = (total_B1 / (attended_BH + epsilon)).log()[:, :, None]
        keys_BCN = self._vision.features_of(trunk, "k").flatten(2)
        keys_BHdN = keys_BCN.unflatten(1, (attention_BHN.shape[1], -1))
        descriptors_BCN = F.normalize((keys_BHdN * weights_BH1[..., None]).flatten(1, 2), dim=1)
        seed_B = (weights_BH1 * attention_BHN).sum(dim=1).argmin(dim=1)
        column_BC1 = seed_B.view(-1, 1, 1).expand(-1, descriptors_BCN.shape[1], 1)
        seed_BC1 = descriptors_BCN.gather(2, column_BC1)
        cosine_BN = (descriptors_BCN * seed_BC1).sum(dim=1)
        return (cosine_BN > self._options.threshold).float().unflatten(1, trunk.grid_hw)


def build(options: Options, backbones: Backbones) -> FoundBackground:
    """Return the source on the second network.

    Raises:
        WeightsError: it cannot be loaded.
    """
    return FoundBackground(backbones.vision, options)
