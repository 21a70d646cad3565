"""MaskCLIP's encoder and refinements, which both of its variants share (docs/methods.md 4).

In the last block every token keeps its own value. The refinements, prompt denoising and key
smoothing, are of section 3.3 of the paper; both are off by default.

Shapes: B windows of one image, N = h * w patches, C trunk width, D joint width, Q text rows, K
classes.
"""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.text.text_encoder import TemplateSet, best_of_class
from ovseg_core.dense.encoder import DenseEncoder, DenseFeatures
from ovseg_core.dense.last_block import dense_patches, identity
from ovseg_core.dense.options import WindowOptions
from ovseg_core.dense.scoring import Scoring, cosines
from ovseg_core.images.resize.position_embedding import PositionInterpolation
from ovseg_core.segmenter import ScoreOnly, TextMatrix

Probability = Annotated[float, Field(ge=0, le=1)]

KeyNorm = Literal["tokens", "channels"]
"""Axis over which keys are normalised. `tokens`: over the positions, as the published code does by
the default axis of its function; `channels`: each position's key, as for a cosine."""

KEYS = "keys"
"""Name of the last block's keys (B, C, h, w) among the features."""

_DENOISED = -100.0
"""Score of a phrase that prompt denoising drops."""


class MaskClipOptions(WindowOptions):
    """Options that MaskCLIP's variants add."""

    logit_scale: PositiveFloat = 100.0
    """Multiplies the cosines before the softmax over all phrases."""
    position_rule: PositionInterpolation = "size"
    """How position embeddings are interpolated to other grids than CLIP's own."""
    templates: TemplateSet = "t85"
    """Prompt templates where the vocabulary gives none."""
    prompt_denoising_threshold: Annotated[Probability, ScoreOnly()] = 0.0
    """Prompt denoising: a phrase whose highest probability in a window is lower is dropped there;
    0: off; published, where it is on: 0.5."""
    key_smoothing_threshold: Probability = 0.0
    """Key smoothing: patches whose highest probability is lower are smoothed by the similarity of
    keys; 0: off; published, where it is on: 1."""
    key_norm: Annotated[KeyNorm, ScoreOnly()] = "tokens"
    """Axis over which keys are normalised for the smoothing: `tokens` as published, or
    `channels`."""


class MaskClipEncoder(DenseEncoder[MaskClipOptions]):
    """Encoder under the identity attention; residual connection and MLP are kept."""

    def encode_dense(self, trunk: TrunkFeatures) -> DenseFeatures:
        """Return the patches, and the last block's keys if key smoothing is on."""
        patches_BDhw = dense_patches(self.clip, trunk, identity)
        if not self.options.key_smoothing_threshold:
            return DenseFeatures(patches_BDhw)
        return DenseFeatures(patches_BDhw, extra={KEYS: projected_keys(self.clip, trunk)})


def projected_keys(clip: Clip, trunk: TrunkFeatures) -> Tensor:
    """Return the last block's keys of the patches (B, C, h, w), after its output projection.

    The published code stores keys that went through the output projection of the values.
    """
    block: Any = clip.visual.transformer.resblocks[-1]
    attention = block.attn
    weight, bias = (part.chunk(3)[1] for part in (attention.in_proj_weight, attention.in_proj_bias))
    keys_BLC = attention.out_proj(F.linear(block.ln_1(trunk.tokens_BLC), weight, bias))
    return keys_BLC[:, 1:].transpose(1, 2).unflatten(2, trunk.grid_hw)


def refined(options: MaskClipOptions, plain: Scoring) -> Scoring:
    """Return a variant's scoring with the refinements that are on.

    Args:
        options: the method's.
        plain: the variant's scoring without refinements.
    """
    scale = options.logit_scale
    denoising, smoothing = options.prompt_denoising_threshold, options.key_smoothing_threshold

    def score(features: DenseFeatures, text: TextMatrix) -> Tensor:
        scores_BQhw = denoise_prompts(cosines(features, text), scale, denoising)  # 4.2 a
        if smoothing:  # 4.2 b
            keys_BChw = features.extra[KEYS]
            scores_BQhw = smooth_by_keys(scores_BQhw, keys_BChw, scale, smoothing, options.key_norm)
        elif plain.domain == "prob":
            scores_BQhw = (scores_BQhw * scale).softmax(dim=1)
        else:
            return scores_BQhw
        return best_of_class(scores_BQhw, text, absent=0.0)

    if not denoising and not smoothing:
        return plain
    return Scoring(score, "prob" if smoothing else plain.domain)


def denoise_prompts(scores_BQhw: Tensor, logit_scale: float, threshold: float) -> Tensor:
    """Return the scores with phrases dropped (score -100) that are unlikely in the whole window.

    Args:
        scores_BQhw: cosines.
        logit_scale: of the softmax over phrases.
        threshold: a phrase whose highest probability is lower is dropped; 0: none is.
    """
    if not threshold:
        return scores_BQhw
    highest_BQ11 = (scores_BQhw * logit_scale).softmax(dim=1).amax(dim=(2, 3), keepdim=True)
    return scores_BQhw.masked_fill(highest_BQ11 < threshold, _DENOISED)


def smooth_by_keys(
    scores_BQhw: Tensor, keys_BChw: Tensor, logit_scale: float, threshold: float, norm: KeyNorm
) -> Tensor:
    """Return probabilities smoothed by the similarity of keys (B, Q, h, w): p <- k k^T p.

    The weights are signed and their rows do not sum to one, so the results are no probabilities:
    they are of the order of 50 on either side of 0.

    Args:
        scores_BQhw: cosines.
        keys_BChw: the last block's keys, after its output projection.
        logit_scale: of the softmax over phrases.
        threshold: only patches whose best phrase has less probability are smoothed; 1: all.
        norm: see `KeyNorm`.
    """
    probs_BQN = (scores_BQhw * logit_scale).softmax(dim=1).flatten(2)
    keys_BCN = F.normalize(keys_BChw.flatten(2), dim=2 if norm == "tokens" else 1)
    # k^ (k^T p): the N x N similarities are never held.
    smoothed_BQN = (probs_BQN @ keys_BCN.mT) @ keys_BCN
    uncertain_B1N = probs_BQN.amax(dim=1, keepdim=True) < threshold
    return torch.where(uncertain_B1N, smoothed_BQN, probs_BQN).unflatten(2, scores_BQhw.shape[2:])
