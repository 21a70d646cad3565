"""Training of CLIP-DINOiser's two convolutions, without labels, from DINO and FOUND.

Source: docs/methods.md 5.5. Shapes: B images, C trunk width, N = h * w patches, S side of a
training image.
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
from ovseg_core.backbones.vision.vit import DenseBackbone
from ovseg_core.dense.affinity import cosine_affinity, threshold_affinity
from ovseg_core.images.batch import Image
from ovseg_core.objectness import found
from ovseg_core.training.heads import HeadOptions
from ovseg_core.training.heads.shared.dinoiser_model import (
    DINO,
    TAP,
    DinoiserHeads,
    check_depth,
    tap_map,
)
from schemas.config import WeightsName

_CHANNELS_PER_WIDTH = 256, 768
"""Published outputs of the affinity convolution, for a trunk of this width."""


class Options(HeadOptions):
    """Options of the head `dinoiser`."""

    steps: PositiveInt = 6300
    """Training steps."""
    batch: PositiveInt = 16
    """Images per step."""
    sample: NonNegativeInt = 1000
    """Number of images of the collection to train on, drawn with replacement; 0: all."""
    affinity_learning_rate: PositiveFloat = 5e-5
    """Learning rate of the affinity convolution (AdamW)."""
    objectness_learning_rate: PositiveFloat = 1e-2
    """Learning rate of the objectness convolution (AdamW)."""
    decay_step: PositiveInt = 5000
    """From this step on both learning rates are a tenth."""
    channels: PositiveInt | None = None
    """Outputs of the affinity convolution; null: 256 for a trunk of 768, in proportion."""
    gamma: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """Affinity threshold: pairs of patches with at least this cosine similarity in the second
    network are positive."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Brightness is multiplied by a random factor of 1 minus to 1 plus this."""
    affinity_network: WeightsName = ""
    """timm network whose affinity is learned; empty: DINO ViT-B/16, or the embedded network in a
    job with embedded models."""
    found_head: WeightsName = ""
    """FOUND's head for the second network; empty: as for the objectness source `found`."""


@dataclass(frozen=True)
class Teachers:
    """The frozen networks of the training.

    Attributes:
        clip: the heads take its tap.
        network: gives the target of the affinity.
        found: gives the target of the objectness.
    """

    clip: Clip
    network: DenseBackbone
    found: found.FoundObjectness


class DinoiserTask:
    """The training of both convolutions; see `HeadTask`.

    Args:
        teachers: the frozen networks.
        options: the schedule.
        network_file: CLIP's weights file.
        seed: of the first weights.
    """

    def __init__(self, teachers: Teachers, options: Options, network_file: str, seed: int) -> None:
        clip = teachers.clip
        self._teachers = teachers
        self._options = options
        self.network_file = network_file
        side_px = options.size_px or 2 * clip.input_px
        self.size_px = max(side_px // clip.patch_px, 1) * clip.patch_px
        published, of_width = _CHANNELS_PER_WIDTH
        channels = options.channels or max(clip.width * published // of_width, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            affinity, objectness = nn.Conv2d(clip.width, channels, 3), nn.Conv2d(clip.width, 1, 1)
        modules = {"obj_proj": affinity, "bkg_decoder": objectness}
        self.weights = {
            f"{name}.{part}": weight
            for name, module in modules.items()
            for part, weight in module.to(clip.device).named_parameters()
        }
        self._heads = DinoiserHeads(*self.weights.values())
        rates = {
            "obj_proj": options.affinity_learning_rate,
            "bkg_decoder": options.objectness_learning_rate,
        }
        self.learning_rates = {name: rates[name.partition(".")[0]] for name in self.weights}

    def learning_rate_factor(self, step: int) -> float:
        """Return 1 before the decay step, a tenth from it on."""
        return 1.0 if step < self._options.decay_step else 0.1

    def view(self, image: Image, rng: np.random.Generator) -> Tensor:
        """Return a random square crop at side S, mirrored or not, with another brightness."""
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
        """Return the loss of docs/methods.md 5.5."""
        clip = self._teachers.clip
        with torch.no_grad():
            trunk = clip.forward_trunk(clip.normalise(pixels_B3SS), "size", (TAP,))
            tap_BChw = tap_map(trunk)
            similar_BNN, object_B1hw = self._targets(pixels_B3SS, trunk.grid_hw)
        affinity_BNN = cosine_affinity(self._heads.guide(tap_BChw))  # A^phi
        # As published, the clamped cosine similarities are used as logits.
        affinity_loss = F.binary_cross_entropy_with_logits(affinity_BNN.clamp(min=0), similar_BNN)
        logits_B1hw = self._heads.objectness(tap_BChw)
        return affinity_loss + F.binary_cross_entropy_with_logits(logits_B1hw, object_B1hw)

    def _targets(self, pixels_B3SS: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the targets, 0 or 1: similar pairs (B, N, N) and objects (B, 1, h, w)."""
        values_BChw = self._teachers.network.features(pixels_B3SS, "v")
        if tuple(values_BChw.shape[2:]) != grid_hw:
            values_BChw = F.interpolate(values_BChw, size=grid_hw, mode="bilinear")
        affinity_BNN = threshold_affinity(cosine_affinity(values_BChw), self._options.gamma)
        objectness = self._teachers.found.patch_probabilities(pixels_B3SS)
        objectness_B1hw = F.interpolate(objectness, size=grid_hw, mode="bilinear")
        return (affinity_BNN > 0).float(), (objectness_B1hw > 0.5).float()


def build(options: Options, backbones: Backbones, seed: int) -> DinoiserTask:
    """Return the training, with CLIP, DINO and FOUND loaded.

    Raises:
        WeightsError: weights that cannot be found, downloaded or used.
    """
    clip = backbones.clip
    check_depth(clip)
    dino = options.affinity_network or backbones.network_or(DINO)
    head = found.build(found.Options(head=options.found_head), backbones)
    teachers = Teachers(clip, backbones.network(dino, "affinity"), head)
    return DinoiserTask(teachers, options, backbones.files()["clip"], seed)
