"""CLIP-DIY (Wysoczanska et al., WACV 2024): CLIP scores of multi-scale crops times objectness.

Follows the authors' evaluation script by default: the image squashed to 256 x 256, half-overlapping
crops of three sizes, cosine maps enlarged and averaged, then multiplied by an objectness map
(docs/methods.md 2).

Shapes: B images, N crops of all scales, S crops along a side, P side of the squashed image, R side
of a resized crop, D joint width, Q text rows, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from ovseg_core.backbones.clip import Clip
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import (
    TemplateSet,
    TextEncoder,
    best_of_class,
    templates_of,
)
from ovseg_core.images.batch import Image, with_images
from ovseg_core.images.resize.crop_pyramid import CLIP_DIY, CropPyramid
from ovseg_core.images.resize.published_sizes import resize_linear, squash_nearest
from ovseg_core.objectness import Objectness, ObjectnessPart, build_objectness, squashed_maps
from ovseg_core.segmenter import (
    MethodCard,
    MethodOptions,
    ScoreMaps,
    ScoreOnly,
    Segmenter,
    TextMatrix,
)
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


@dataclass(frozen=True)
class CropFeatures:
    """The crops' embeddings and the objectness of a batch, on the method's device.

    Attributes:
        crops_BND: float32 embeddings of all crops, scale by scale in scan order, not normalised.
        objectness: of each image, float32 (P, P) in [0, 1]; None without a source.
    """

    crops_BND: Tensor
    objectness: tuple[Tensor, ...] | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.crops_BND)

    def image(self, index: int) -> "CropFeatures":
        """Return the features of one image, as those of a batch of one."""
        part = slice(index, index + 1)
        return CropFeatures(self.crops_BND[part], self.objectness and self.objectness[part])


class Options(MethodOptions):
    """Options of the method `clip_diy`; the defaults are the authors' evaluation."""

    variant: Literal["evaluation", "demo"] = "evaluation"
    """`evaluation`: bilinear squash, objectness of the original image. `demo`: nearest squash,
    objectness of the squashed image, as in the authors' notebook."""
    side_px: PositiveInt = CLIP_DIY.side_px
    """Side of the square that the image is squashed to; labels are decided on it."""
    scales: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = CLIP_DIY.scales
    """Sides of the crops in pixels of the squashed image."""
    stride_divisor: PositiveInt = CLIP_DIY.stride_divisor
    """Crops of side s are s / stride_divisor apart; 1: no overlap."""
    objectness: ObjectnessPart = NamedOptions(name="found")
    """Source of the objectness; with `none` the scores decide alone."""
    templates: Annotated[TemplateSet, ScoreOnly()] = "diy"
    """Prompt templates where the vocabulary gives none."""
    background_prompt: Annotated[Literal["literal", "template"], ScoreOnly()] = "literal"
    """Whether background phrases are embedded without a template or in the templates."""
    decode_side_px: NonNegativeInt = 672
    """Images may be decoded at a reduced scale down to this short side; those of COCO and VOC are
    smaller than twice this side and never are. 0: always at full size."""
    crops_per_forward: NonNegativeInt = 0
    """Crops in one forward pass, which bounds memory; 0: a default for the device."""

    @property
    def finds_background(self) -> bool:
        """Whether there is an objectness."""
        return self.objectness.name != "none"

    @model_validator(mode="after")
    def _crops_fit(self) -> "Options":
        self.pyramid().check()
        return self

    def pyramid(self) -> CropPyramid:
        """Return the crops of the squashed image."""
        return CropPyramid(self.side_px, self.scales, self.stride_divisor)


class ClipDiy(Segmenter[CropFeatures]):
    """The method; see the module.

    Args:
        clip: embeds crops and phrases.
        objectness: the source that the scores are multiplied with.
        options: the method's.
    """

    def __init__(self, clip: Clip, objectness: Objectness, options: Options) -> None:
        demo = options.variant == "demo"
        self.decode_side_px = options.side_px if demo else options.decode_side_px
        self._clip = clip
        self._objectness = objectness
        self._options = options
        self._side = options.side_px
        self.pyramid = options.pyramid()
        literal = "plain" if options.background_prompt == "literal" else options.templates
        self._text = TextEncoder(clip, templates_of(options.templates), templates_of(literal))

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary's text matrix.

        Raises:
            VocabularyError: objectness without a background phrase, which it would favour.
        """
        if not vocabulary.background and self._options.objectness.name != "none":
            raise VocabularyError(
                "clip_diy needs at least one phrase in vocabulary.background, or no objectness: "
                "method.options.objectness=none"
            )
        return self._text.matrix(vocabulary)

    def encode(self, images: Sequence[Image]) -> CropFeatures:
        """Return the embeddings of all crops, computed in common batches, and the objectness."""
        squashed = [self.squash(image) for image in images]
        squares_B3PP = torch.stack(squashed).to(self._clip.device)
        crops = self.pyramid.cut(squares_B3PP, self._clip.input_px)
        embedded = self._clip.encode_images(crops.flatten(0, 1), self._options.crops_per_forward)
        crops_BND = embedded.unflatten(0, crops.shape[:2])
        seen = images if self._options.variant == "evaluation" else with_images(images, squashed)
        return CropFeatures(crops_BND, squashed_maps(self._objectness.maps(seen), self._side))

    @torch.inference_mode()
    def score(self, features: CropFeatures, text: TextMatrix) -> ScoreMaps:
        """Return the cosines of the crops: one level for each size of crops."""
        cosines_BNQ = F.normalize(features.crops_BND, dim=-1) @ text.rows_QD.T
        grids = self.pyramid.grids(cosines_BNQ)
        levels = [best_of_class(grid_BQSS, text, absent=-1.0) for grid_BQSS in grids]
        return ScoreMaps(
            levels=tuple(zip(*levels, strict=True)),
            canvas_hw=(self._side, self._side),
            objectness=features.objectness,
            fusion="complement_product" if features.objectness is not None else "none",
            domain="cosine",
            logit_scale=self._clip.logit_scale,
        )

    def squash(self, image: Image) -> Image:
        """Return the image as a uint8 square, aspect ignored."""
        if self._options.variant == "demo":
            return squash_nearest(image[None], self._side)[0]
        return resize_linear(image, (self._side, self._side))


def build(options: Options, backbones: Backbones) -> ClipDiy:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    return ClipDiy(backbones.clip, build_objectness(options.objectness, backbones), options)
