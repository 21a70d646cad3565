"""MaskCLIP's way through CLIP, which both of its variants share: tokens keep their own values.

Shapes: W windows of one image, B windows, C trunk width, D joint width, Q text rows, K classes, h w
patches.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.position_embedding import PositionInterpolation
from ovseg_core.backbones.text_encoder import TemplateSet, best_of_class
from ovseg_core.dense.attention import identity
from ovseg_core.dense.encoder import read_trunk
from ovseg_core.dense.last_block import dense_features, last_keys
from ovseg_core.dense.options import Scoring, WindowOptions, cosines
from ovseg_core.refine.key_smoothing import KeyNorm, denoise_prompts, smooth_by_keys
from ovseg_core.segmenter import TextMatrix

Probability = Annotated[float, Field(ge=0, le=1)]


class ValueOptions(WindowOptions):
    """Options that MaskCLIP's variants add."""

    logit_scale: PositiveFloat = 100.0
    """Multiplies the cosines before the softmax over all phrases."""
    position_rule: PositionInterpolation = "size"
    """How the position table is read at other grids than its own."""
    templates: TemplateSet = "t85"
    """Prompt templates where the vocabulary gives none."""
    denoise_below: Probability = 0.0
    """Prompt denoising: a phrase that is nowhere in a window as likely as this is dropped there;
    0: none is; published, where it is on: 0.5."""
    smooth_below: Probability = 0.0
    """Key smoothing: patches less sure than this take the labels of patches with like keys; 0: none
    does; published, where it is on: 1."""
    key_norm: KeyNorm = "tokens"
    """Over what keys are made unit for the smoothing: `tokens` as published, or `channels`."""


@dataclass(frozen=True)
class ValueReader:
    """Reads windows.

    Attributes:
        clip: the model.
        options: the method's.
    """

    clip: Clip
    options: ValueOptions

    @property
    def multiple_px(self) -> int:
        """CLIP's patch."""
        return self.clip.patch_px

    def read(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk's state."""
        return read_trunk(self.clip, windows_B3HW, self.options)

    def finish(self, state: TrunkFeatures) -> Tensor:
        """Return the patches (B, D, h, w), followed by the keys (B, C, h, w) if they are needed."""
        patches_BDhw = dense_features(self.clip, state, identity)
        if not self.options.smooth_below:
            return patches_BDhw
        return torch.cat([patches_BDhw, last_keys(self.clip, state)], dim=1)


def refined(options: ValueOptions, base: Scoring) -> Scoring:
    """Return a variant's scoring with the refinements that the options ask for.

    Args:
        options: the method's.
        base: the variant's own, without any.
    """

    def maps(unit_WDhw: Tensor, extra_WEhw: Tensor, text: TextMatrix, scale: float) -> Tensor:
        scores_WQhw = cosines(unit_WDhw, extra_WEhw, text, scale)
        scores_WQhw = denoise_prompts(scores_WQhw, scale, options.denoise_below)  # a
        if options.smooth_below:  # b
            scores_WQhw = smooth_by_keys(
                scores_WQhw, extra_WEhw, scale, options.smooth_below, options.key_norm
            )
        elif base.domain == "prob":
            scores_WQhw = (scores_WQhw * scale).softmax(dim=1)
        else:
            return scores_WQhw
        return best_of_class(scores_WQhw, text, absent=0.0)

    if not options.denoise_below and not options.smooth_below:
        return base
    return Scoring(maps, "prob" if options.smooth_below else base.domain)
