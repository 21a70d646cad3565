"""CLIP-DIY (Wysoczanska et al., WACV 2024): CLIP asked about crops, an objectness map as referee.

Follows the authors' evaluation script by default: the image squashed to 256 x 256, half-overlapping
crops of three sizes, cosine maps enlarged and averaged, foreground probability multiplied in.
Shapes: B images, N crops of all scales, S crops along a side, D joint width, Q rows, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from ovseg_core.backbones import Backbones
from ovseg_core.clip import Clip
from ovseg_core.geometry import resize_linear, squash_nearest
from ovseg_core.objectness import Objectness, ObjectnessPart, build_objectness
from ovseg_core.resample import bicubic_crops, crop_grid
from ovseg_core.segmenter import (
    Image,
    MethodCard,
    MethodOptions,
    ScoreMaps,
    TextMatrix,
    with_pixels,
)
from ovseg_core.text import TemplateSet, TextBank, best_of_class, templates_of
from schemas.config import ClipConfig, NamedOptions
from schemas.errors import VocabularyError
from schemas.vocabulary import Vocabulary

CARD = MethodCard(
    title="CLIP-DIY",
    paper="CLIP-DIY: CLIP Dense Inference Yields Open-Vocabulary Semantic Segmentation For-Free",
    arxiv="2309.14289",
    parts="CLIP on crops of three sizes, FOUND objectness; no dense features",
    clip=ClipConfig(model="ViT-B-32", pretrained="laion2b_s34b_b79k"),
    weights="CLIP ViT-B/32 laion2b_s34b_b79k, DINO ViT-S/8 (300 epochs), FOUND head",
    licence="MIT (CLIP), Apache-2.0 (DINO, FOUND)",
    published={
        "VOC21": 59.9,
        "Context60": 19.7,
        "Object": 31.0,
        "VOC20": 79.7,
        "Context59": 19.8,
        "Stuff": 13.3,
        "Cityscapes": 11.6,
        "ADE": 9.9,
    },
)


class Options(MethodOptions):
    """Options of the method `clip_diy`; the defaults are the authors' evaluation."""

    recipe: Literal["evaluation", "demo"] = "evaluation"
    """`evaluation`: bilinear squash, objectness of the original image. `demo`: nearest squash,
    objectness of the squashed image, as in the authors' notebook."""
    side_px: PositiveInt = 256
    """Side of the square that the image is squashed to; labels are taken there."""
    scales: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 128, 64)
    """Sides of the crops in pixels of the squashed image."""
    stride_divisor: PositiveInt = 2
    """Crops of side P stand P / stride_divisor apart; 1: no overlap."""
    objectness: Annotated[NamedOptions, ObjectnessPart] = NamedOptions(name="found")
    """Where the foreground comes from; `none` leaves the fusion out."""
    templates: TemplateSet = "diy"
    """Prompt templates where the vocabulary gives none."""
    background_prompt: Literal["literal", "template"] = "literal"
    """Whether background phrases are embedded as they stand or in the templates."""
    decode_side_px: NonNegativeInt = 672
    """Photographs may be decoded at a reduced scale down to this short side; COCO and VOC ones are
    below twice this and so never are. 0: always at full size."""
    crops_per_forward: NonNegativeInt = 0
    """Crops in one pass through the image tower, which bounds memory; 0: what suits the device."""

    @model_validator(mode="after")
    def _crops_fit(self) -> "Options":
        if max(self.scales) > self.side_px:
            raise ValueError(f"scales: expected crops of 1 to {self.side_px} px, got {self.scales}")
        if min(self.scales) < self.stride_divisor:
            raise ValueError(f"scales: crops of {min(self.scales)} px have no stride")
        return self


@dataclass(frozen=True)
class CropFeatures:
    """What CLIP-DIY knows of a batch before the words.

    Attributes:
        crops_BND: pooled embeddings of all crops, scale by scale in scan order, not normalised.
        objectness: foreground probability of each image on the canvas; None without a source.
    """

    crops_BND: Tensor
    objectness: tuple[Tensor, ...] | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.crops_BND)


class ClipDiy:
    """The method; see the module.

    Args:
        clip: embeds crops and words.
        objectness: the referee.
        options: the recipe.
    """

    def __init__(self, clip: Clip, objectness: Objectness, options: Options) -> None:
        demo = options.recipe == "demo"
        self.decode_side_px = options.side_px if demo else options.decode_side_px
        self._clip = clip
        self._objectness = objectness
        self._options = options
        templates = templates_of(options.templates)
        literal = options.background_prompt == "literal"
        self._text = TextBank(clip, templates, templates_of("plain") if literal else templates)

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary as rows.

        Raises:
            VocabularyError: no background phrase for objectness to hold against the labels.
        """
        if not vocabulary.background and self._options.objectness.name != "none":
            raise VocabularyError(
                "clip_diy needs at least one phrase in vocabulary.background, or no objectness: "
                "method.options.objectness=none"
            )
        return self._text.matrix(vocabulary)

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> CropFeatures:
        """Embed the crops of all images in common batches and find their foreground."""
        squashed = [self.squash(image) for image in images]
        crops_BND = self.embed_crops(torch.stack(squashed).to(self._clip.device))
        seen = images if self._options.recipe == "evaluation" else with_pixels(images, squashed)
        return CropFeatures(crops_BND, self._on_canvas(self._objectness.maps(seen)))

    @torch.inference_mode()
    def score(self, features: CropFeatures, text: TextMatrix) -> ScoreMaps:
        """Return raw cosines of the crop grids: one level for each scale."""
        cosines_BNQ = F.normalize(features.crops_BND, dim=-1) @ text.rows_QD.T
        per_scale = cosines_BNQ.split([side * side for side in self._grid_sides()], dim=1)
        levels = []
        for side, cosines_BSQ in zip(self._grid_sides(), per_scale, strict=True):
            grid_BQSS = cosines_BSQ.transpose(1, 2).unflatten(2, (side, side))
            levels.append(best_of_class(grid_BQSS, text, absent=-1.0))
        return ScoreMaps(
            levels=tuple(zip(*levels, strict=True)),
            canvas_hw=(self._options.side_px, self._options.side_px),
            objectness=features.objectness,
            fusion="complement_product" if features.objectness is not None else "none",
            domain="cosine",
            logit_scale=self._clip.logit_scale,
        )

    def squash(self, image: Image) -> Image:
        """Return the image as a uint8 square, aspect ignored."""
        side = self._options.side_px
        if self._options.recipe == "demo":
            return squash_nearest(image[None], side)[0]
        return resize_linear(image, (side, side))

    def crops(self, squashed_B3PP: Tensor) -> Tensor:
        """Return all crops at the tower's input size, uint8 (B, N, 3, R, R)."""
        parts = [
            bicubic_crops(squashed_B3PP, scale, self._stride(scale), self._clip.input_px)
            for scale in self._options.scales
        ]
        return torch.cat(parts, dim=1)

    def embed_crops(self, squashed_B3PP: Tensor) -> Tensor:
        """Return the pooled embeddings (B, N, D) of all crops."""
        crops = self.crops(squashed_B3PP)
        embedded = self._clip.embed(crops.flatten(0, 1), self._options.crops_per_forward)
        return embedded.unflatten(0, crops.shape[:2])

    def _stride(self, scale: int) -> int:
        return scale // self._options.stride_divisor

    def _grid_sides(self) -> list[int]:
        side_px = self._options.side_px
        return [crop_grid(side_px, scale, self._stride(scale)) for scale in self._options.scales]

    def _on_canvas(self, maps: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        if maps is None:
            return None
        size = (self._options.side_px, self._options.side_px)
        return tuple(F.interpolate(one[None, None], size, mode="bilinear")[0, 0] for one in maps)


def build(options: Options, backbones: Backbones) -> ClipDiy:
    """Load CLIP and the objectness source.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    return ClipDiy(backbones.clip, build_objectness(options.objectness, backbones), options)
