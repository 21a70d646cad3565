"""Options and published sizes of the sliding-window methods."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ovseg_core.backbones.text.text_encoder import TemplateSet
from ovseg_core.dense.windows import Padding
from ovseg_core.images.resize.position_embedding import PositionInterpolation
from ovseg_core.objectness import ObjectnessPart
from ovseg_core.segmenter import MethodOptions, ScoreOnly
from schemas.config import NamedOptions


class WindowOptions(MethodOptions):
    """Options of every window method; each method sets its published defaults."""

    short_side_px: NonNegativeInt | None = None
    """The image is resized to this short side (long side at most 2048) first; 0: as it is; null:
    the published side, in proportion to the side that CLIP was trained on."""
    window_px: NonNegativeInt | None = None
    """Side of a window; 0: the whole image is one window; null: the published side, in proportion
    to the side that CLIP was trained on."""
    stride_px: PositiveInt | None = None
    """Pixels from one window to the next, at most the window's side; null: the published stride, in
    proportion."""
    logit_scale: Annotated[PositiveFloat, ScoreOnly()] = 40.0
    """Multiplies the cosines before the softmax over all phrases."""
    probability_threshold: Annotated[float, Field(ge=0, le=1), ScoreOnly()] = 0.0
    """A pixel whose best label has less probability is background."""
    pamr_steps: NonNegativeInt = 0
    """Steps of PAMR, which aligns the scores with the edges of the image, at full size; 0: none."""
    pamr_dilations: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (8, 16)
    """Distances in pixels of the neighbours that PAMR compares a pixel with."""
    position_rule: PositionInterpolation = "scale01"
    """How position embeddings are interpolated to other grids than CLIP's own."""
    templates: Annotated[TemplateSet, ScoreOnly()] = "t80"
    """Prompt templates where the vocabulary gives none."""
    objectness: ObjectnessPart = NamedOptions(name="none")
    """With a source, pixels of objectness 0.5 or less are background and the others take the best
    label; the published method has none."""
    outlier_repair: bool = False
    """Outlier patches, by their local density, are filled from their neighbours before the last
    block (SC-CLIP)."""
    global_attention: bool = False
    """The last block attends over the whole image: the windows' patches are merged on one grid
    before it."""
    top_k_labels: NonNegativeInt = 0
    """Number of labels that compete in an image: those with the highest probability in any window
    by CLIP's embedding of the whole window; 0: all."""

    @property
    def finds_background(self) -> bool:
        """Whether there is an objectness or a threshold of probability."""
        return self.objectness.name != "none" or self.probability_threshold > 0


class AttentionOptions(WindowOptions):
    """Options of the methods that change nothing but the last block's attention."""

    limited_attention: bool = False
    """In the last block a patch attends only to patches of its own proposal (CorrCLIP); those of no
    proposal attend to all. Needs `proposals`."""

    @model_validator(mode="after")
    def _has_proposals(self) -> Self:
        if self.limited_attention and self.proposals.name == "none":
            raise ValueError("limited_attention: needs `proposals`, for example proposals=sam")
        if self.limited_attention and self.global_attention:
            raise ValueError("limited_attention: expected global_attention=false beside it")
        return self


@dataclass(frozen=True)
class PublishedSizes:
    """A method's published sizes, in multiples of CLIP's own input side (224 px for ViT-B/16).

    Attributes:
        short: short side of the resized image.
        window: side of a window; 0: the whole image is one.
        stride: from one window to the next.
        padding: how windows are brought to whole patches.
        resize: `keep` the aspect, or `squash` the image to a square.
        kernel: OpenCV's bilinear, or Pillow's bicubic.
    """

    short: float
    window: float
    stride: float
    padding: Padding
    resize: Literal["keep", "squash"] = "keep"
    kernel: Literal["linear", "bicubic"] = "linear"
