"""FOUND's training-free background (Simeoni et al., CVPR 2023): everything like the least attended.

Shapes: B images, H heads, N patches = h * w, d head width, C channels = H * d.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vit import TimmViT, VitFeatures
from ovseg_core.images.batch import Image
from ovseg_core.objectness import by_shape
from ovseg_core.resize.published_sizes import limit_side
from ovseg_core.segmenter import MethodOptions


class Options(MethodOptions):
    """Options of the source `found_bkg`."""

    threshold: float = 0.3
    """Patches whose cosine to the background seed is higher are background."""
    epsilon: PositiveFloat = 1e-10
    """Keeps the logarithm finite for a head that attends nowhere."""
    max_side_px: NonNegativeInt = 672
    """Larger images are reduced to this long side first; 0: never."""


class FoundBackground:
    """Foreground as the complement of what resembles the least attended patch.

    Args:
        vision: a network whose class token attends to objects (DINO).
        options: threshold and limits.
    """

    def __init__(self, vision: TimmViT, options: Options) -> None:
        self._vision = vision
        self._options = options

    @torch.inference_mode()
    def maps(self, images: Sequence[Image]) -> tuple[Tensor, ...]:
        """Return 0/1 maps of the foreground, at the image's own or the reduced size."""
        reduced = [limit_side(image, self._options.max_side_px) for image in images]
        return by_shape(reduced, self._vision.device, self.foreground)

    def foreground(self, pixels_B3HW: Tensor) -> Tensor:
        """Return 0/1 maps (B, H, W) of images of one size."""
        background_Bhw = self.background(self._vision.forward_trunk(pixels_B3HW))
        size = pixels_B3HW.shape[-2:]
        # The authors enlarge the patch mask to the image and cut it at one half.
        enlarged = F.interpolate(1 - background_Bhw[:, None], size=size, mode="bilinear")
        return (enlarged[:, 0] > 0.5).float()

    def background(self, state: VitFeatures) -> Tensor:
        """Return 1 for background patches, else 0 (B, h, w)."""
        attention_BHN = self._vision.class_attention(state)
        attended_BH = (attention_BHN > attention_BHN.mean(dim=(1, 2), keepdim=True)).float().mean(2)
        epsilon = self._options.epsilon
        total_B1 = (attended_BH + epsilon).sum(dim=1, keepdim=True)
        # Heads that attend to little of the image speak of objects and weigh more.
        weights_BH1 = (total_B1 / (attended_BH + epsilon)).log()[:, :, None]
        keys_BCN = self._vision.features_of(state, "k").flatten(2)
        keys_BHdN = keys_BCN.unflatten(1, (attention_BHN.shape[1], -1))
        descriptors_BCN = F.normalize((keys_BHdN * weights_BH1[..., None]).flatten(1, 2), dim=1)
        seed_B = (weights_BH1 * attention_BHN).sum(dim=1).argmin(dim=1)
        seed_BC1 = descriptors_BCN.gather(2, _column(seed_B, descriptors_BCN.shape[1]))
        cosine_BN = (descriptors_BCN * seed_BC1).sum(dim=1)
        return (cosine_BN > self._options.threshold).float().unflatten(1, state.grid_hw)


def build(options: Options, backbones: Backbones) -> FoundBackground:
    """Load the second network.

    Raises:
        WeightsError: it cannot be loaded.
    """
    return FoundBackground(backbones.vision, options)


def _column(index_B: Tensor, channels: int) -> Tensor:
    return index_B.view(-1, 1, 1).expand(-1, channels, 1)
