"""FOUND (Simeoni et al., CVPR 2023): a 1x1 convolution on DINO's last-block keys.

The released head was trained on DINO's 300-epoch ViT-S/8 run. timm's `vit_small_patch8_224.dino`
holds another run of the same shape: give the 300-epoch file as `vision.weights`. Shapes: B images,
C channels, H W pixels, h w patches.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor

from ovseg_core.backbones.checkpoint import read_tensors
from ovseg_core.backbones.head_file import check_trained_for
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vit import TimmViT, VitFeatures
from ovseg_core.embedded import FOUND_HEAD
from ovseg_core.images.batch import Image
from ovseg_core.objectness import by_shape
from ovseg_core.resize.published_sizes import limit_side
from ovseg_core.segmenter import MethodOptions
from schemas.errors import WeightsError

KIND = "found"
RELEASED_HEAD = (
    "https://raw.githubusercontent.com/valeoai/FOUND/f9f2ef709002037c5498ce571115ad76b9627c31/"
    "data/weights/decoder_weights.pt"
)
"""The authors' head for DINO ViT-S/8 (Apache-2.0, 385 numbers)."""


class Options(MethodOptions):
    """Options of the source `found`."""

    head: str = ""
    """Weights file of the 1x1 convolution (path or URL); empty: the embedded head for the embedded
    network, else the authors'."""
    max_side_px: NonNegativeInt = 672
    """Larger images are reduced to this long side first, as the cost grows with the square of the
    pixels; COCO and VOC photographs are below it. 0: never."""


class FoundObjectness:
    """Foreground probability from last-block keys.

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
        """Return the foreground probability of each image, at its own or the reduced size."""
        reduced = [limit_side(image, self._max_side_px) for image in images]
        return by_shape(reduced, self._vision.device, self.probabilities)

    def probabilities(self, pixels_B3HW: Tensor) -> Tensor:
        """Return the probabilities (B, H, W) of images of one size."""
        logits_B1hw = self.patch_logits(self._vision.forward_trunk(pixels_B3HW))
        patch_px = float(self._vision.patch_px)
        logits = F.interpolate(logits_B1hw, scale_factor=patch_px, mode="bilinear")
        height, width = pixels_B3HW.shape[-2:]
        return logits[:, 0, :height, :width].sigmoid()

    def patch_probabilities(self, pixels_B3HW: Tensor) -> Tensor:
        """Return the probabilities of the patches (B, 1, h, w) of images of one size."""
        return self.patch_logits(self._vision.forward_trunk(pixels_B3HW)).sigmoid()

    def patch_logits(self, state: VitFeatures) -> Tensor:
        """Return the head's output (B, 1, h, w)."""
        return F.conv2d(self._vision.features_of(state, "k"), self._weight, self._bias)


def build(options: Options, backbones: Backbones) -> FoundObjectness:
    """Load the second network and the head.

    Raises:
        WeightsError: the head is missing or made for a network of another width.
    """
    file = _head_file(options, backbones)
    tensors = read_tensors(file)
    weight, bias = (_tensor(tensors, part, file) for part in ("weight", "bias"))
    vision = backbones.vision
    expected = (1, vision.dim, 1, 1)
    if tuple(weight.shape) != expected or bias.numel() != 1:
        raise WeightsError(
            f"objectness: the head {file} has weights of shape {tuple(weight.shape)}, but the "
            f"network {backbones.vision_model} needs {expected}; give the head that belongs to it "
            "as `method.options.objectness.options.head`"
        )
    check_trained_for(file, KIND, backbones.files()["vision"])
    backbones.note_file(KIND, file)
    return FoundObjectness(vision, weight.float(), bias.float().view(1), options.max_side_px)


def _head_file(options: Options, backbones: Backbones) -> str:
    if options.head:
        return backbones.resolve(options.head)
    return str(FOUND_HEAD) if backbones.vision_is_embedded else backbones.resolve(RELEASED_HEAD)


def _tensor(tensors: dict[str, Tensor], part: str, file: str) -> Tensor:
    found = [name for name in tensors if name == part or name.endswith(f"decoder.{part}")]
    if not found:
        raise WeightsError(
            f"objectness: {file} holds no decoder.{part}, only {', '.join(sorted(tensors)[:4])}"
        )
    return tensors[found[0]]
