"""MaskCLIP's two refinements at patch resolution (methods.md 4.2; Zhou et al., section 3.3).

Shapes: W windows, Q text rows, C key channels, h w patches, N = h * w.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

KeyNorm = Literal["tokens", "channels"]
"""Over what a key is made unit. `tokens`: over the positions, as the published code does by the
default axis of its function; `channels`: each position's key, as cosine likeness would have it."""

_RULED_OUT = -100.0
"""Score of a phrase that denoising drops."""


def denoise_prompts(scores_WQhw: Tensor, scale: float, threshold: float) -> Tensor:
    """Return the scores, phrases that are likely nowhere in a window dropped (a: -100).

    Args:
        scores_WQhw: cosines.
        scale: of the softmax over phrases.
        threshold: a phrase whose highest probability is lower is dropped; 0: none is.
    """
    if not threshold:
        return scores_WQhw
    highest_WQ11 = (scores_WQhw * scale).softmax(dim=1).amax(dim=(2, 3), keepdim=True)
    return scores_WQhw.masked_fill(highest_WQ11 < threshold, _RULED_OUT)


def smooth_by_keys(
    scores_WQhw: Tensor, keys_WChw: Tensor, scale: float, threshold: float, norm: KeyNorm
) -> Tensor:
    """Return probabilities mixed between patches of like keys (b: p <- k k^T p).

    The mixing is signed and its rows do not sum to one, so the result is no probability: of the
    order of 50 on either side of 0.

    Args:
        scores_WQhw: cosines.
        keys_WChw: the last block's keys, after its output projection.
        scale: of the softmax over phrases.
        threshold: only patches whose best phrase has less probability are mixed; 1: all.
        norm: see `KeyNorm`.
    """
    probs_WQN = (scores_WQhw * scale).softmax(dim=1).flatten(2)
    keys_WCN = F.normalize(keys_WChw.flatten(2), dim=2 if norm == "tokens" else 1)
    # k^ (k^T p): the N x N likeness is never needed by itself.
    mixed_WQN = (probs_WQN @ keys_WCN.mT) @ keys_WCN
    unsure_W1N = probs_WQN.amax(dim=1, keepdim=True) < threshold
    return torch.where(unsure_W1N, mixed_WQN, probs_WQN).unflatten(2, scores_WQhw.shape[2:])
