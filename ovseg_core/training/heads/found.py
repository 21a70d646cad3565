"""Training of FOUND's 1x1 head on last-block keys, without labels.

FOUND-bkg's masks are the first targets, the head's own predictions the later ones; a bilateral
solver aligns both with the edges of the image (docs/methods.md 3.3, 3.4).

Shapes: B images, N = h * w patches, C width of the network, H W pixels, S side of a training image.
"""

from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vision.vit import TimmViT
from ovseg_core.dense.affinity import cosine_affinity
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.pillow_passes import BILINEAR, resize_in_passes
from ovseg_core.objectness import found_bkg
from ovseg_core.training.heads import HeadOptions
from ovseg_core.training.heads.shared import bilateral_solver

_BLUR_SIGMA = (0.1, 2.0)


class Options(HeadOptions):
    """Options of the head `found`."""

    steps: PositiveInt = 500
    """Training steps."""
    batch: PositiveInt = 50
    """Images per step."""
    learning_rate: PositiveFloat = 5e-2
    """Learning rate of AdamW."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Factor of the learning rate at each decay."""
    decay_interval: PositiveInt = 50
    """Steps from one decay of the learning rate to the next."""
    seed_steps: NonNegativeInt = 100
    """Number of first steps with the seed masks as targets; later the head's own masks are."""
    seeds: Literal["attention", "similarity"] = "attention"
    """Source of the seed masks. `attention`: FOUND-bkg, as published; it needs a class token that
    attends to objects (DINO). `similarity`, for other networks: the patch most similar to all
    others is background, and so are patches that Otsu's threshold groups with it."""
    rescale: tuple[PositiveFloat, PositiveFloat] = (0.1, 3.0)
    """Range of the random factor by which an image is rescaled before its final resize."""
    blur_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability that an image is blurred."""


class FoundTask:
    """The training of the head; see `HeadTask`.

    Args:
        vision: the network whose keys it takes.
        options: the schedule.
        network_file: the network's weights file.
        seed: of the first weights.
    """

    def __init__(self, vision: TimmViT, options: Options, network_file: str, seed: int) -> None:
        self._vision = vision
        self._options = options
        self._background = found_bkg.FoundBackground(vision, found_bkg.Options())
        own_px = vision.model.patch_embed.grid_size[0] * vision.patch_px
        # A whole number of patches.
        self.size_px = max((options.size_px or own_px) // vision.patch_px, 1) * vision.patch_px
        self.network_file = network_file
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._head = nn.Conv2d(vision.dim, 1, 1).to(vision.device)
        self.weights = {f"decoder.{name}": one for name, one in self._head.named_parameters()}
        self.learning_rates = dict.fromkeys(self.weights, options.learning_rate)

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor of torch's StepLR."""
        return self._options.decay_factor ** (step // self._options.decay_interval)

    def view(self, image: Image, rng: np.random.Generator) -> Tensor:
        """Return the image as a square, aspect lost, after a random rescale and maybe a blur."""
        scaled_px = max(round(self.size_px * rng.uniform(*self._options.rescale)), 1)
        pixels = _resize_short_side(_resize_short_side(image, self.size_px), scaled_px)
        pixels = resize_in_passes(pixels, (self.size_px, self.size_px), BILINEAR)
        is_blurred = rng.random() < self._options.blur_probability
        sigma = rng.uniform(*_BLUR_SIGMA)  # drawn in any case: the random numbers stay in step
        return _blur(pixels, sigma) if is_blurred else pixels

    def loss(self, pixels_B3SS: Tensor, step: int) -> Tensor:
        """Return the loss of docs/methods.md 3.4."""
        with torch.no_grad():
            trunk = self._vision.forward_trunk(pixels_B3SS)
            keys_BChw = self._vision.features_of(trunk, "k")
        logits_Bhw = self._head(keys_BChw)[:, 0]
        own_Bhw = logits_Bhw.detach() > 0
        total = 1.5 * _bce(logits_Bhw, self._refine(pixels_B3SS, own_Bhw))
        if step < self._options.seed_steps:
            with torch.no_grad():
                if self._options.seeds == "attention":
                    seed_Bhw = self._background.background(trunk) < 0.5
                else:
                    seed_Bhw = similarity_seeds(keys_BChw)
            return total + _bce(logits_Bhw, self._refine(pixels_B3SS, seed_Bhw))
        return total + 4.0 * _bce(logits_Bhw, own_Bhw)

    def _refine(self, pixels_B3SS: Tensor, masks_Bhw: Tensor) -> Tensor:
        """Return the solver's masks at patch resolution: bilinear, true where positive."""
        images_BSS3 = pixels_B3SS.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        masks = masks_Bhw.cpu().numpy()
        solved_BSS = np.stack(
            [bilateral_solver.refine(*pair) for pair in zip(images_BSS3, masks, strict=True)]
        )
        solved = torch.from_numpy(solved_BSS).to(masks_Bhw.device)[:, None].float()
        return F.interpolate(solved, size=masks_Bhw.shape[1:], mode="bilinear")[:, 0] > 0


def build(options: Options, backbones: Backbones, seed: int) -> FoundTask:
    """Return the training, with the second network loaded.

    Raises:
        WeightsError: it cannot be loaded.
    """
    vision = backbones.vision
    return FoundTask(vision, options, backbones.files()["vision"], seed)


def similarity_seeds(keys_BChw: Tensor) -> Tensor:
    """Return the foreground by similarity with the most typical patch, bool (B, h, w).

    The patch most similar to all others is background. Otsu's threshold splits the cosine
    similarities with it (of keys minus the batch's mean) in two; the lower group is foreground.
    """
    centred_BChw = keys_BChw - keys_BChw.mean(dim=(0, 2, 3), keepdim=True)
    cosine_BNN = cosine_affinity(centred_BChw)
    typical_B = cosine_BNN.mean(dim=2).argmax(dim=1)
    to_it_BN = cosine_BNN[torch.arange(len(keys_BChw), device=keys_BChw.device), typical_B]
    return (to_it_BN < _otsu(to_it_BN)[:, None]).unflatten(1, keys_BChw.shape[2:])


def _otsu(values_BN: Tensor) -> Tensor:
    """Return Otsu's threshold (B,): it splits each row into its two most compact groups."""
    sorted_BN = values_BN.sort(dim=1).values
    count = sorted_BN.shape[1]
    below_N = torch.arange(1, count, device=values_BN.device)
    sums_BN = sorted_BN.cumsum(dim=1)
    mean_below = sums_BN[:, :-1] / below_N
    mean_above = (sums_BN[:, -1:] - sums_BN[:, :-1]) / (count - below_N)
    variance_BN = below_N * (count - below_N) * (mean_above - mean_below).square()
    return sorted_BN.gather(1, 1 + variance_BN.argmax(dim=1, keepdim=True))[:, 0]


def _bce(logits_Bhw: Tensor, target_Bhw: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits_Bhw, target_Bhw.to(logits_Bhw.dtype))


def _resize_short_side(image: Image, side_px: int) -> Image:
    """Resize uint8 (3, H, W) by Pillow's bilinear to a short side of `side_px`."""
    height, width = image.shape[1:]
    factor = side_px / min(height, width)
    size_hw = max(int(height * factor), side_px), max(int(width * factor), side_px)
    return resize_in_passes(image, size_hw, BILINEAR)


def _blur(pixels_3SS: Tensor, sigma: float) -> Tensor:
    """Blur by an odd Gaussian kernel of about a tenth of the side."""
    side = int(0.1 * pixels_3SS.shape[1]) // 2 * 2 + 1
    pixels_SS3 = pixels_3SS.permute(1, 2, 0).contiguous().numpy()
    blurred_SS3 = cv2.GaussianBlur(pixels_SS3, (side, side), sigma)
    return torch.from_numpy(blurred_SS3).permute(2, 0, 1)
