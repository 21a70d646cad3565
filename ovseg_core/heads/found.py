"""FOUND's 1x1 head on last-block keys, from no labels at all (methods.md 3.4).

It starts from what FOUND-bkg says without training, and goes on from its own predictions; a
bilateral solver draws both to the edges of the image. Shapes: B images, C width of the network, h w
patches, S side of a training image.
"""

from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vit import TimmViT
from ovseg_core.dense.affinity import cosine_affinity
from ovseg_core.heads import HeadOptions
from ovseg_core.heads.shared import bilateral_solver
from ovseg_core.heads.shared.views import short_side, squashed
from ovseg_core.images.batch import Image
from ovseg_core.objectness import found_bkg

_BLUR_SIGMA = (0.1, 2.0)


class Options(HeadOptions):
    """Options of the head `found`."""

    steps: PositiveInt = 500
    """Batches."""
    batch: PositiveInt = 50
    """Images of a step."""
    rate: PositiveFloat = 5e-2
    """Learning rate of AdamW."""
    rate_decay: Annotated[float, Field(gt=0, le=1)] = 0.95
    """The rate is multiplied by this ..."""
    rate_every: PositiveInt = 50
    """... each time so many steps are done."""
    seed_steps: NonNegativeInt = 100
    """First steps, which learn the seeds; afterwards the head's own masks take their place."""
    seeds: Literal["attention", "similarity"] = "attention"
    """Where the first masks come from. `attention`: FOUND-bkg, as published; it needs a class token
    that attends to objects (DINO). `similarity`: the patch most like all others is background, and
    so is what a threshold puts on its side; for networks whose class token does not."""
    rescale: tuple[PositiveFloat, PositiveFloat] = (0.1, 3.0)
    """Least and most that an image is rescaled by before it is brought to the side again."""
    blur_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of images that are blurred."""


class FoundTask:
    """What the head learns; see `HeadTask`.

    Args:
        vision: the network whose keys it reads.
        options: the recipe.
        network_file: the network's weights file.
        seed: of the head's first weights.
    """

    def __init__(self, vision: TimmViT, options: Options, network_file: str, seed: int) -> None:
        self._vision = vision
        self._options = options
        self._background = found_bkg.FoundBackground(vision, found_bkg.Options())
        own_px = vision.model.patch_embed.grid_size[0] * vision.patch_px
        # Training images are whole patches.
        self.size_px = max((options.size_px or own_px) // vision.patch_px, 1) * vision.patch_px
        self.network_file = network_file
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._head = nn.Conv2d(vision.dim, 1, 1).to(vision.device)
        self.weights = {f"decoder.{name}": one for name, one in self._head.named_parameters()}
        self.rates = dict.fromkeys(self.weights, options.rate)

    def rate_factor(self, step: int) -> float:
        """Return StepLR's factor."""
        return self._options.rate_decay ** (step // self._options.rate_every)

    def view(self, image: Image, rng: np.random.Generator) -> Tensor:
        """Return the image squashed to the side, after a rescale that may cost it detail."""
        scaled_px = max(round(self.size_px * rng.uniform(*self._options.rescale)), 1)
        pixels = short_side(short_side(image, self.size_px), scaled_px)
        pixels = squashed(pixels, self.size_px)
        blurred, sigma = rng.random() < self._options.blur_share, rng.uniform(*_BLUR_SIGMA)
        return _blurred(pixels, sigma) if blurred else pixels

    def loss(self, pixels_B3SS: Tensor, step: int) -> Tensor:
        """Return L of methods.md 3.4."""
        with torch.no_grad():
            state = self._vision.forward_trunk(pixels_B3SS)
            keys_BChw = self._vision.features_of(state, "k")
        logits_Bhw = self._head(keys_BChw)[:, 0]
        own_Bhw = logits_Bhw.detach() > 0
        total = 1.5 * _bce(logits_Bhw, self._sharpened(pixels_B3SS, own_Bhw))
        if step < self._options.seed_steps:
            with torch.no_grad():
                if self._options.seeds == "attention":
                    seed_Bhw = self._background.background(state) < 0.5
                else:
                    seed_Bhw = unlike_the_most(keys_BChw)
            return total + _bce(logits_Bhw, self._sharpened(pixels_B3SS, seed_Bhw))
        return total + 4.0 * _bce(logits_Bhw, own_Bhw)

    def _sharpened(self, pixels_B3SS: Tensor, masks_Bhw: Tensor) -> Tensor:
        """Return BS: the solver's masks, brought back to the patches; any part of it counts."""
        images_BSS3 = pixels_B3SS.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        masks = masks_Bhw.cpu().numpy()
        solved_BSS = np.stack(
            [bilateral_solver.sharpened(*pair) for pair in zip(images_BSS3, masks, strict=True)]
        )
        solved = torch.from_numpy(solved_BSS).to(masks_Bhw.device)[:, None].float()
        return F.interpolate(solved, size=masks_Bhw.shape[1:], mode="bilinear")[:, 0] > 0


def build(options: Options, backbones: Backbones, seed: int) -> FoundTask:
    """Load the second network.

    Raises:
        WeightsError: it cannot be loaded.
    """
    vision = backbones.vision
    return FoundTask(vision, options, backbones.files()["vision"], seed)


def unlike_the_most(keys_BChw: Tensor) -> Tensor:
    """Return the patches unlike the one that is most like all others, bool (B, h, w).

    Keys are taken less the batch's mean; Otsu's threshold parts each image's cosines in two.
    """
    centred_BChw = keys_BChw - keys_BChw.mean(dim=(0, 2, 3), keepdim=True)
    cosine_BNN = cosine_affinity(centred_BChw)
    typical_B = cosine_BNN.mean(dim=2).argmax(dim=1)
    to_it_BN = cosine_BNN[torch.arange(len(keys_BChw), device=keys_BChw.device), typical_B]
    return (to_it_BN < _otsu(to_it_BN)[:, None]).unflatten(1, keys_BChw.shape[2:])


def _otsu(values_BN: Tensor) -> Tensor:
    """Return the cut (B,) that parts each row into its two most compact groups."""
    sorted_BN = values_BN.sort(dim=1).values
    count = sorted_BN.shape[1]
    below_N = torch.arange(1, count, device=values_BN.device)
    sums_BN = sorted_BN.cumsum(dim=1)
    mean_below = sums_BN[:, :-1] / below_N
    mean_above = (sums_BN[:, -1:] - sums_BN[:, :-1]) / (count - below_N)
    apart_BN = below_N * (count - below_N) * (mean_above - mean_below).square()
    return sorted_BN.gather(1, 1 + apart_BN.argmax(dim=1, keepdim=True))[:, 0]


def _bce(logits_Bhw: Tensor, target_Bhw: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits_Bhw, target_Bhw.to(logits_Bhw.dtype))


def _blurred(pixels_3SS: Tensor, sigma: float) -> Tensor:
    """Blur with a kernel of about a tenth of the side, odd."""
    side = int(0.1 * pixels_3SS.shape[1]) // 2 * 2 + 1
    pixels_SS3 = pixels_3SS.permute(1, 2, 0).contiguous().numpy()
    blurred_SS3 = cv2.GaussianBlur(pixels_SS3, (side, side), sigma)
    return torch.from_numpy(blurred_SS3).permute(2, 0, 1)
