"""SAM's image encoder by timm, unmodified: its output after the neck, as ProxyCLIP uses it.

Source: docs/methods.md 1.7, 6.2. Shapes: B images, H W pixels, g cells along a side of the grid
(64), C channels after the neck (256). What is returned is float32 and on the network's device.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.vision.load_vit import LoadedVit
from ovseg_core.backbones.vision.vit import FeatureKind, in_batches

_ATTENTION_COST = 8
"""Weight of a cell against a ViT's token: relative positions need whole attention matrices."""


class SamEncoder:
    """SAM's frozen image encoder.

    Args:
        loaded: timm's VisionTransformerSAM on `device`, with its normalisation.
        compute: where and how it runs.
    """

    feature_kinds: tuple[FeatureKind, ...] = ("tokens",)
    multiple_px = 1

    def __init__(self, loaded: LoadedVit, compute: Compute) -> None:
        self.model: Any = loaded.model  # a module's attributes are dynamic
        self._compute = compute
        self._encode = compute.compiled(self.model.forward_features)
        self.device = device = compute.device
        self._mean_311 = torch.tensor(loaded.mean, device=device).view(3, 1, 1)
        self._std_311 = torch.tensor(loaded.std, device=device).view(3, 1, 1)
        self.input_px: tuple[int, int] = self.model.patch_embed.img_size

    def features(self, pixels_B3HW: Tensor, kind: FeatureKind) -> Tensor:
        """Return the encoder's output (B, C, g, g); see `DenseBackbone`.

        Images of any shape are squashed to the encoder's own square (bilinear, no letterbox).
        """
        rows, columns = self.model.patch_embed.grid_size
        return in_batches(pixels_B3HW, rows * columns * _ATTENTION_COST, self._forward)

    def _forward(self, pixels_B3HW: Tensor) -> Tensor:
        normal = (pixels_B3HW.float() / 255 - self._mean_311) / self._std_311
        squashed = F.interpolate(normal, self.input_px, mode="bilinear")
        return self._compute.run(self._encode, squashed)
