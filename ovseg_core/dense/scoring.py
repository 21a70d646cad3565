"""Dense features and text to scores: similarities, probabilities, and which labels compete.

All scores are float32 and on the features' device.

Shapes: B windows of one image, D joint width, Q text rows, K classes, h w patches of a window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.text.text_encoder import best_of_class
from ovseg_core.dense.encoder import DenseFeatures
from ovseg_core.segmenter import TextMatrix

Adjustment = Literal["none", "literal", "surgery"]
"""Feature adjustment (docs/methods.md 9.3). The report that names it can be read in two ways and
has no code: `literal` subtracts the window's own cosine, `surgery` is CLIP Surgery's
subtraction."""


@dataclass(frozen=True)
class Scoring:
    """How a method scores the windows of an image.

    Attributes:
        score: (features with unit patches and class tokens, text) -> similarities (B, Q, h, w), or
            probabilities (B, K, h, w) in the domain `prob`.
        domain: `cosine`: averaged over the windows, then softmax over all phrases and the best
            phrase of each class; `score`: the same, for scores that are not bounded and relative to
            the other phrases; `prob`: probabilities of classes, averaged over the windows.
    """

    score: Callable[[DenseFeatures, TextMatrix], Tensor]
    domain: Literal["cosine", "score", "prob"]


def cosines(features: DenseFeatures, text: TextMatrix) -> Tensor:
    """Return the cosine similarity of every patch with every phrase (B, Q, h, w)."""
    return torch.einsum("qd,bdhw->bqhw", text.rows_QD, features.patches_BDhw)


def class_token_cosines(features: DenseFeatures, text: TextMatrix) -> Tensor:
    """Return the cosine similarity of every window's class token with every phrase (B, Q, 1, 1)."""
    return (_class_tokens(features) @ text.rows_QD.T)[:, :, None, None]


def patch_probabilities(features: DenseFeatures, text: TextMatrix, logit_scale: float) -> Tensor:
    """Return softmax(logit_scale * cosine) over the phrases, the best of a class (B, K, h, w)."""
    phrases_BQhw = (cosines(features, text) * logit_scale).softmax(dim=1)
    return best_of_class(phrases_BQhw, text, absent=0.0)


def surgery(features: DenseFeatures, text: TextMatrix) -> Tensor:
    """Return CLIP Surgery's scores (B, Q, h, w): F_n (w_t T_t - R) (docs/methods.md 9.2)."""
    rows_BQD = surgery_rows(_class_tokens(features), text.rows_QD)
    return torch.einsum("nqd,ndhw->nqhw", rows_BQD, features.patches_BDhw)


def surgery_rows(class_tokens_BD: Tensor, rows_QD: Tensor) -> Tensor:
    """Return w_t T_t - R (B, Q, D), where R is the mean of w_t T_t over the phrases.

    What a patch has in common with all phrases is thereby subtracted from its scores; w_t is the
    softmax of the phrases' similarities with the image, with mean 1 (docs/methods.md 9.2).

    Args:
        class_tokens_BD: embeddings of the images, unit.
        rows_QD: the phrases, unit.
    """
    weights_BQ = (2 * class_tokens_BD @ rows_QD.T).softmax(dim=1) * len(rows_QD)
    weighted_BQD = weights_BQ[:, :, None] * rows_QD
    return weighted_BQD - weighted_BQD.mean(dim=1, keepdim=True)


def without_class_token(features: DenseFeatures, text: TextMatrix) -> Tensor:
    """Return F_n T_q - f T_q (B, Q, h, w): the similarity of the window itself is subtracted."""
    return cosines(features, text) - class_token_cosines(features, text)


def _class_tokens(features: DenseFeatures) -> Tensor:
    if features.class_tokens_BD is None:
        raise ValueError("this scoring needs class tokens, and the encoder returned none")
    return features.class_tokens_BD


COSINES = Scoring(cosines, "cosine")
SURGERY = Scoring(surgery, "score")
WITHOUT_CLASS_TOKEN = Scoring(without_class_token, "score")


def probabilities(logit_scale: float) -> Scoring:
    """Return the scoring by `patch_probabilities`."""
    return Scoring(partial(patch_probabilities, logit_scale=logit_scale), "prob")


def label_presence(embeddings_BD: Tensor, text: TextMatrix, logit_scale: float) -> Tensor:
    """Return how probable it is that each class is in an image (K), 0 of one without phrases.

    The highest probability of any of the class's phrases in any window, by CLIP's own embedding of
    the window, for which it was trained (docs/methods.md 14.4).

    Args:
        embeddings_BD: CLIP's embeddings of the windows of one image, not normalised.
        text: all phrases.
        logit_scale: of the cosines before the softmax over phrases.
    """
    cosines_BQ = F.normalize(embeddings_BD, dim=1) @ text.rows_QD.T
    highest_Q = (cosines_BQ * logit_scale).softmax(dim=1).amax(dim=0)
    return best_of_class(highest_Q[None, :, None, None], text, absent=0.0).flatten()


def top_label_rows(embeddings_BD: Tensor, text: TextMatrix, logit_scale: float, k: int) -> Tensor:
    """Return which phrases compete, bool (Q): the background's and those of the k likeliest labels.

    A large vocabulary costs accuracy at every pixel; so most labels are ruled out by their
    `label_presence` before the dense decision.

    Args:
        embeddings_BD: as for `label_presence`.
        text: all phrases.
        logit_scale: as for `label_presence`.
        k: number of labels that compete; of equally likely ones the first.
    """
    presence_K = label_presence(embeddings_BD, text, logit_scale)
    labels_K = presence_K[1:].sort(descending=True, stable=True).indices + 1
    competes_K = torch.zeros_like(presence_K, dtype=torch.bool)
    competes_K[0] = True
    competes_K[labels_K[:k]] = True
    return competes_K[text.class_index_Q]
