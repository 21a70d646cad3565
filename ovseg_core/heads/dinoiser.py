"""CLIP-DINOiser's two convolutions, taught without labels by DINO and FOUND (methods.md 5.5).

Shapes: B images, C trunk width, N = h * w patches, S side of a training image.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ovseg_core.backbones.clip import Clip
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vit import DenseBackbone
from ovseg_core.dense.affinity import cosine_affinity, threshold_affinity
from ovseg_core.heads import HeadOptions
from ovseg_core.heads.shared.dinoiser_model import DINO, TAP, DinoiserHeads, check_depth, tap_map
from ovseg_core.images.batch import Image
from ovseg_core.objectness import found

_CHANNELS, _OF_WIDTH = 256, 768


class Options(HeadOptions):
    """Options of the head `dinoiser`."""

    steps: PositiveInt = 6300
    """Batches."""
    batch: PositiveInt = 16
    """Images of a step."""
    sample: NonNegativeInt = 1000
    """Train on so many images of the collection, drawn with replacement; 0: on all."""
    rate_affinity: PositiveFloat = 5e-5
    """Learning rate of the affinity convolution (AdamW)."""
    rate_objectness: PositiveFloat = 1e-2
    """Learning rate of the objectness convolution."""
    drop_step: PositiveInt = 5000
    """From this step on both rates are a tenth."""
    channels: PositiveInt | None = None
    """Outputs of the affinity convolution; null: 256 for a trunk of 768, in proportion."""
    least_affinity: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """Patches that the second network finds this much alike belong together (gamma)."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The brightness is multiplied by 1 less to 1 plus this."""
    affinity_network: str = ""
    """timm network that teaches the affinity; empty: DINO ViT-B/16, beside embedded models
    theirs."""
    found_head: str = ""
    """FOUND's head for the job's second network; empty: as for the objectness source `found`."""


@dataclass(frozen=True)
class Teachers:
    """The networks that the heads learn from, and what they read.

    Attributes:
        clip: whose tap the heads read.
        network: says which patches belong together.
        found: says what is an object.
    """

    clip: Clip
    network: DenseBackbone
    found: found.FoundObjectness


class DinoiserTask:
    """What the heads learn; see `HeadTask`.

    Args:
        teachers: the frozen networks.
        options: the recipe.
        network_file: CLIP's weights file.
        seed: of the heads' first weights.
    """

    def __init__(self, teachers: Teachers, options: Options, network_file: str, seed: int) -> None:
        clip = teachers.clip
        self._teachers = teachers
        self._options = options
        self.network_file = network_file
        side_px = options.size_px or 2 * clip.input_px
        self.size_px = max(side_px // clip.patch_px, 1) * clip.patch_px
        width = clip.visual.conv1.out_channels
        channels = options.channels or max(width * _CHANNELS // _OF_WIDTH, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            affinity, objectness = nn.Conv2d(width, channels, 3), nn.Conv2d(width, 1, 1)
        modules = {"obj_proj": affinity, "bkg_decoder": objectness}
        self.weights = {
            f"{name}.{part}": weight
            for name, module in modules.items()
            for part, weight in module.to(clip.device).named_parameters()
        }
        self._heads = DinoiserHeads(*self.weights.values())
        rates = {"obj_proj": options.rate_affinity, "bkg_decoder": options.rate_objectness}
        self.rates = {name: rates[name.partition(".")[0]] for name in self.weights}

    def rate_factor(self, step: int) -> float:
        """Return 1, or a tenth from the published step on."""
        return 1.0 if step < self._options.drop_step else 0.1

    def view(self, image: Image, rng: np.random.Generator) -> Tensor:
        """Return a random square of the image at side S, perhaps mirrored, its light changed."""
        side, height, width = self.size_px, *image.shape[1:]
        factor = side / min(height, width)
        size_hw = (max(int(height * factor), side), max(int(width * factor), side))
        pixels = F.interpolate(image[None].float(), size=size_hw, mode="bilinear")[0]
        top, left = (int(rng.integers(length - side + 1)) for length in size_hw)
        pixels = pixels[:, top : top + side, left : left + side]
        if rng.random() < 0.5:
            pixels = pixels.flip(2)
        spread = self._options.brightness
        return (pixels * rng.uniform(1 - spread, 1 + spread)).clamp(0, 255)

    def loss(self, pixels_B3SS: Tensor, step: int) -> Tensor:
        """Return L of methods.md 5.5."""
        clip = self._teachers.clip
        with torch.no_grad():
            state = clip.forward_trunk(clip.normalise(pixels_B3SS), "size", (TAP,))
            tap_BChw = tap_map(state)
            together_BNN, object_B1hw = self._targets(pixels_B3SS, state.grid_hw)
        affinity_BNN = cosine_affinity(self._heads.guide(tap_BChw))  # A^phi
        # As published, cosines are taken as logits after clamping.
        alike = F.binary_cross_entropy_with_logits(affinity_BNN.clamp(min=0), together_BNN)
        logits_B1hw = self._heads.objectness(tap_BChw)
        return alike + F.binary_cross_entropy_with_logits(logits_B1hw, object_B1hw)

    def _targets(self, pixels_B3SS: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return who belongs together (B, N, N) and what is an object (B, 1, h, w), 0 or 1."""
        values_BChw = self._teachers.network.features(pixels_B3SS, "v")
        if tuple(values_BChw.shape[2:]) != grid_hw:
            values_BChw = F.interpolate(values_BChw, size=grid_hw, mode="bilinear")
        together_BNN = (
            threshold_affinity(cosine_affinity(values_BChw), self._options.least_affinity) > 0
        )
        foreground = self._teachers.found.patch_probabilities(pixels_B3SS)
        foreground = F.interpolate(foreground, size=grid_hw, mode="bilinear")
        return together_BNN.float(), (foreground > 0.5).float()


def build(options: Options, backbones: Backbones, seed: int) -> DinoiserTask:
    """Load CLIP, DINO and FOUND.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    clip = backbones.clip
    check_depth(clip)
    dino = options.affinity_network or backbones.network_or(DINO)
    head = found.build(found.Options(head=options.found_head), backbones)
    teachers = Teachers(clip, backbones.network(dino, "affinity"), head)
    return DinoiserTask(teachers, options, backbones.files()["clip"], seed)
