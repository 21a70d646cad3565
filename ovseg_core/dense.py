"""What the window methods share: CLIP's patches over sliding windows, scored by cosine.

A method is a way to read one batch of windows (`Dense`), its window sizes and its decision; the
rest is here. Shapes: B images or windows, D joint width, Q text rows, K classes, h w patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_core.backbones import Backbones
from ovseg_core.geometry import mmseg_size, resize_linear
from ovseg_core.objectness import ObjectnessPart, build_objectness
from ovseg_core.positional import Rule
from ovseg_core.refine.pamr import Pamr, Refinement
from ovseg_core.segmenter import DecisionRule, Image, MethodOptions, ScoreMaps, TextMatrix
from ovseg_core.stitch import Stitch
from ovseg_core.text import TemplateSet, TextBank, templates_of
from ovseg_core.windows import Padding, Windows
from schemas.config import NamedOptions
from schemas.errors import ConfigError
from schemas.vocabulary import Vocabulary

Dense = Callable[[Tensor], Tensor]
"""Normalised windows (B, 3, H, W) of whole patches -> patches (B, D, h, w), not normalised."""


class WindowOptions(MethodOptions):
    """Options of every window method; each method sets its published defaults."""

    short_side_px: NonNegativeInt | None = None
    """The image is resized to this short side (long side at most 2048) first; 0: as it is; null:
    the published side, in proportion to the side that CLIP was trained on."""
    window_px: PositiveInt | None = None
    """Side of a window; null: the published one, in proportion."""
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
    position_rule: Rule = "scale01"
    """How the position table is read at other grids than its own."""
    templates: TemplateSet = "t80"
    """Prompt templates where the vocabulary gives none."""
    objectness: Annotated[NamedOptions, ObjectnessPart] = NamedOptions(name="none")
    """With a source, pixels of objectness 0.5 or less are background and the others take the best
    label; the published method has none."""


@dataclass(frozen=True)
class Published:
    """A method's published sizes, in sides of CLIP's own input (224 px for ViT-B/16).

    Attributes:
        short: short side of the resized image.
        window: side of a window.
        stride: from one window to the next.
        padding: what becomes of windows that are not whole patches.
    """

    short: float
    window: float
    stride: float
    padding: Padding


@dataclass(frozen=True)
class WindowFeatures:
    """What a window method knows of a batch before the words.

    Attributes:
        patches: for each image the unit patches (D, n_y h, n_x w) of all its windows.
        stitches: where they lie on the image.
        objectness: foreground probability of each image; None without a source.
        refinement: PAMR with the resized images as its guides; None: no PAMR.
    """

    patches: tuple[Tensor, ...]
    stitches: tuple[Stitch, ...]
    objectness: tuple[Tensor, ...] | None
    refinement: Refinement | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.patches)


class WindowSegmenter:
    """A window method; see the module.

    Args:
        backbones: supply CLIP and the objectness source.
        dense: reads a batch of windows.
        options: the method's, with its own defaults.
        published: the sizes where the options give none.
        area_threshold: share of all foreground pixels that a label must exceed to stay.

    Raises:
        ConfigError: a stride that leaves gaps between the windows.
    """

    def __init__(
        self,
        backbones: Backbones,
        dense: Dense,
        options: WindowOptions,
        published: Published,
        area_threshold: float = 0.0,
    ) -> None:
        self._clip = backbones.clip
        self._dense = dense
        self._options = options
        self._area_threshold = area_threshold
        self._objectness = build_objectness(options.objectness, backbones)
        self._text = TextBank(self._clip, templates_of(options.templates))
        side_px = self._clip.input_px
        self.decode_side_px = _given_or(options.short_side_px, published.short * side_px)
        window_px = _given_or(options.window_px, published.window * side_px)
        stride_px = _given_or(options.stride_px, published.stride * side_px)
        if stride_px > window_px:
            raise ConfigError(
                f"method.options.stride_px: expected at most the window's {window_px} px, "
                f"got {stride_px}; larger steps leave gaps"
            )
        self._windows = Windows(window_px, stride_px, self._clip.patch_px, published.padding)

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary as rows; background may have none."""
        return self._text.matrix(vocabulary)

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> WindowFeatures:
        """Read the windows of all images; those of one size go together."""
        resized = [self._resize(image).to(self._clip.device) for image in images]
        read = self._windows.read([self._clip.normalise(one) for one in resized], self._dense)
        patches, stitches = zip(*read, strict=True)
        units = tuple(F.normalize(one, dim=0) for one in patches)
        return WindowFeatures(
            units, stitches, self._objectness.maps(images), self._refinement(resized)
        )

    @torch.inference_mode()
    def score(self, features: WindowFeatures, text: TextMatrix) -> ScoreMaps:
        """Return the cosines of all phrases, averaged over windows when they are decided."""
        levels = [torch.einsum("qd,dhw->qhw", text.rows_QD, one) for one in features.patches]
        return ScoreMaps(
            levels=tuple((level,) for level in levels),
            canvas_hw=None,
            objectness=features.objectness,
            fusion="none" if features.objectness is None else "foreground_gate",
            domain="cosine",
            logit_scale=self._options.logit_scale,
            stitches=features.stitches,
            rule=DecisionRule(
                text.class_index_Q,
                text.num_classes,
                self._options.probability_threshold,
                self._area_threshold,
            ),
            refinement=features.refinement,
        )

    def _refinement(self, resized: Sequence[Image]) -> Refinement | None:
        if not self._options.pamr_steps:
            return None
        pamr = Pamr(self._options.pamr_steps, self._options.pamr_dilations)
        return Refinement(pamr, tuple(resized))

    def _resize(self, image: Image) -> Image:
        short_px = self.decode_side_px
        height, width = image.shape[1:]
        return resize_linear(image, mmseg_size((height, width), short_px)) if short_px else image


def _given_or(given: int | None, published_px: float) -> int:
    return round(published_px) if given is None else given
