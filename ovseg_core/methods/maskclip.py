"""MaskCLIP (Zhou et al., ECCV 2022) on LAION weights: in the last block tokens keep their values.

The variant that CLIP-DIY and CLIP-DINOiser compare with: residual and MLP kept, plain CLIP
normalisation, softmax over the words. The whole image is read at once, at any grid; the published
numbers were taken with windows of 448 px. Shapes: B images, D joint width, Q text rows, K classes,
h w patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from ovseg_core.attention import identity
from ovseg_core.backbones import Backbones
from ovseg_core.clip import Clip
from ovseg_core.geometry import mmseg_size, resize_linear
from ovseg_core.last_block import dense_features
from ovseg_core.objectness import Objectness, ObjectnessPart, build_objectness, by_shape
from ovseg_core.positional import Rule
from ovseg_core.segmenter import Image, MethodCard, MethodOptions, ScoreMaps, TextMatrix
from ovseg_core.text import TemplateSet, TextBank, best_of_class, templates_of
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary

CARD = MethodCard(
    title="MaskCLIP (LAION)",
    paper="Extract Free Dense Labels from CLIP",
    arxiv="2112.01071",
    weights="CLIP ViT-B/16 laion2b_s34b_b88k",
    licence="MIT",
    published={
        "VOC21": 32.9,
        "Context60": 22.9,
        "Object": 16.4,
        "VOC20": 61.8,
        "Context59": 25.6,
        "Stuff": 17.6,
        "Cityscapes": 25.0,
        "ADE": 14.3,
    },
)


class Options(MethodOptions):
    """Options of the method `maskclip`."""

    short_side_px: NonNegativeInt | None = None
    """The image is resized to this short side (long side at most 2048) first; 0: as it is; null:
    twice the side that CLIP was trained on, which is the published 448 for one of 224."""
    temperature: PositiveFloat = 0.01
    """Divides the cosines before the softmax over the words."""
    position_rule: Rule = "size"
    """How the position table is read at other grids than its own."""
    templates: TemplateSet = "t80"
    """Prompt templates where the vocabulary gives none."""
    objectness: Annotated[NamedOptions, ObjectnessPart] = NamedOptions(name="none")
    """With a source, pixels of objectness 0.5 or less are background and the others take the best
    label; the published method has none."""


@dataclass(frozen=True)
class PatchFeatures:
    """What MaskCLIP knows of a batch before the words.

    Attributes:
        patches: for each image its patches in the joint space (D, h, w), unit.
        objectness: foreground probability of each image; None without a source.
    """

    patches: tuple[Tensor, ...]
    objectness: tuple[Tensor, ...] | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.patches)


class MaskClip:
    """The method; see the module.

    Args:
        clip: reads patches and words.
        objectness: the foreground source.
        options: the recipe.
    """

    def __init__(self, clip: Clip, objectness: Objectness, options: Options) -> None:
        own = options.short_side_px
        self.decode_side_px = 2 * clip.input_px if own is None else own
        self._clip = clip
        self._objectness = objectness
        self._options = options
        self._text = TextBank(clip, templates_of(options.templates))

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary as rows; background may have none."""
        return self._text.matrix(vocabulary)

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> PatchFeatures:
        """Read the patches of all images; those of one size go together."""
        resized = [self._resize(image) for image in images]
        patches = by_shape(resized, self._clip.device, self.dense)
        units = tuple(F.normalize(one, dim=0) for one in patches)
        return PatchFeatures(units, self._objectness.maps(images))

    @torch.inference_mode()
    def score(self, features: PatchFeatures, text: TextMatrix) -> ScoreMaps:
        """Return probabilities over the words, one level for each image."""
        gated = features.objectness is not None
        return ScoreMaps(
            levels=tuple((self._probabilities(patches, text),) for patches in features.patches),
            canvas_hw=None,
            objectness=features.objectness,
            fusion="foreground_gate" if gated else "none",
            domain="prob",
            logit_scale=self._clip.logit_scale,
        )

    def dense(self, pixels_B3HW: Tensor) -> Tensor:
        """Return the patches in the joint space (B, D, h, w), not normalised."""
        state = self._clip.trunk(pixels_B3HW, self._options.position_rule)
        return dense_features(self._clip, state, identity)

    def _probabilities(self, patches_Dhw: Tensor, text: TextMatrix) -> Tensor:
        cosines_Qhw = torch.einsum("qd,dhw->qhw", text.rows_QD, patches_Dhw)
        rows_Qhw = (cosines_Qhw / self._options.temperature).softmax(dim=0)
        return best_of_class(rows_Qhw[None], text, absent=0.0)[0]

    def _resize(self, image: Image) -> Image:
        short_px = self.decode_side_px
        height, width = image.shape[1:]
        return resize_linear(image, mmseg_size((height, width), short_px)) if short_px else image


def build(options: Options, backbones: Backbones) -> MaskClip:
    """Load CLIP and the objectness source.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    return MaskClip(backbones.clip, build_objectness(options.objectness, backbones), options)
