"""What tells one window method from another, as data: options, published sizes, scoring.

Shapes: W windows of one image, D joint width, E further channels, Q text rows, K classes, h w
patches of a window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_core.backbones.position_embedding import PositionInterpolation
from ovseg_core.backbones.text_encoder import TemplateSet, best_of_class
from ovseg_core.dense.windows import Padding
from ovseg_core.images.per_image_files import LocalFolder
from ovseg_core.objectness import ObjectnessPart
from ovseg_core.segmenter import MethodOptions, TextMatrix
from schemas.config import NamedOptions


class WindowOptions(MethodOptions):
    """Options of every window method; each method sets its published defaults."""

    short_side_px: NonNegativeInt | None = None
    """The image is resized to this short side (long side at most 2048) first; 0: as it is; null:
    the published side, in proportion to the side that CLIP was trained on."""
    window_px: NonNegativeInt | None = None
    """Side of a window; 0: the whole image is one; null: the published one, in proportion."""
    stride_px: PositiveInt | None = None
    """Pixels from one window to the next, at most the window's side; null: the published ones."""
    logit_scale: PositiveFloat = 40.0
    """Multiplies the cosines before the softmax over all phrases."""
    probability_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A pixel whose best label has less probability is background."""
    pamr_steps: NonNegativeInt = 0
    """Steps of PAMR, which draws the scores to the edges of the image, at full size; 0: none."""
    pamr_dilations: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (8, 16)
    """Distances in pixels of the neighbours that PAMR compares a pixel with."""
    position_rule: PositionInterpolation = "scale01"
    """How the position table is read at other grids than its own."""
    templates: TemplateSet = "t80"
    """Prompt templates where the vocabulary gives none."""
    objectness: Annotated[NamedOptions, ObjectnessPart] = NamedOptions(name="none")
    """With a source, pixels of objectness 0.5 or less are background and the others take the best
    label; the published method has none."""
    outlier_repair: bool = False
    """Patches of odd density are filled from their neighbours before the last block (SC-CLIP)."""
    global_attention: bool = False
    """The last block sees the whole image: the windows' patches are laid on one grid first."""
    region_folder: LocalFolder = ""
    """Local folder of masks from another tool, such as SAM's, one file for each image (see
    `refine.region_masks`); in each the majority label wins. A run goes on only while these
    files stay as they are. Empty: none."""
    presence_top: NonNegativeInt = 0
    """Only so many labels compete in an image: those that CLIP, asked about each window as a whole,
    finds likeliest in one of them; 0: all."""


@dataclass(frozen=True)
class PublishedSizes:
    """A method's published sizes, in sides of CLIP's own input (224 px for ViT-B/16).

    Attributes:
        short: short side of the resized image.
        window: side of a window; 0: the whole image is one.
        stride: from one window to the next.
        padding: what becomes of windows that are not whole patches.
        resize: `keep` the aspect, or `squash` the image to a square.
        kernel: OpenCV's bilinear, or Pillow's bicubic.
    """

    short: float
    window: float
    stride: float
    padding: Padding
    resize: Literal["keep", "squash"] = "keep"
    kernel: Literal["linear", "bicubic"] = "linear"


Scorer = Callable[[Tensor, Tensor, TextMatrix, float], Tensor]
"""(unit patches (W, D, h, w), further channels (W, E, h, w), text, logit scale) -> cosines
(W, Q, h, w), or probabilities (W, K, h, w)."""


@dataclass(frozen=True)
class Scoring:
    """How patches become scores.

    Attributes:
        maps: the function.
        domain: `cosine`: averaged over the windows, then softmax over all phrases and the best
            phrase of each class; `score`: the same, of numbers that are not bounded and relative to
            the other phrases; `prob`: probabilities of classes, averaged over the windows.
    """

    maps: Scorer
    domain: Literal["cosine", "score", "prob"]


def cosines(unit_WDhw: Tensor, extra_WEhw: Tensor, text: TextMatrix, scale: float) -> Tensor:
    """Return the cosine of every patch with every phrase (W, Q, h, w)."""
    return torch.einsum("qd,bdhw->bqhw", text.rows_QD, unit_WDhw)


def probabilities(unit_WDhw: Tensor, extra_WEhw: Tensor, text: TextMatrix, scale: float) -> Tensor:
    """Return softmax(scale * cosine) over the phrases, the best of each class (W, K, h, w)."""
    rows_WQhw = (cosines(unit_WDhw, extra_WEhw, text, scale) * scale).softmax(dim=1)
    return best_of_class(rows_WQhw, text, absent=0.0)


COSINES = Scoring(cosines, "cosine")
PROBABILITIES = Scoring(probabilities, "prob")
