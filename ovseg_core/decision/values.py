"""From the scores of pixels to labels and probabilities. Formulas and their order: methods.md 14.1.

Shapes: Q phrases, K classes with background first, R rows and W columns of pixels (any two axes).
"""

import math

import torch
from torch import Tensor

from ovseg_core.segmenter import DecisionRule, ScoreMaps

OBJECTNESS_THRESHOLD = 0.5
"""Objectness at or under which `foreground_gate` says background."""


def class_probabilities(logits: Tensor, rule: DecisionRule) -> Tensor:
    """Return (K, R, W): the best probability of each class's phrases, not summing to one.

    Args:
        logits: scaled scores of the phrases (Q, R, W).
        rule: which phrase is of which class.
    """
    probs = logits.softmax(0)
    if _one_phrase_each(rule):
        return probs
    classes = probs.new_zeros(rule.num_classes, *probs.shape[1:])
    index = rule.class_index_Q.to(probs.device)[:, None, None].expand_as(probs)
    return classes.scatter_reduce(0, index, probs, "amax")


def complement_product(scores: Tensor, objectness: Tensor) -> Tensor:
    """Fuse scores M (K, R, W) with objectness T (R, W) in place: M_0 (1 - T), M_k T.

    CLIP-DIY, docs/methods.md 2.
    """
    scores[0] *= 1 - objectness
    scores[1:] *= objectness
    return scores


def class_scores(scores: Tensor, maps: ScoreMaps, rule: DecisionRule) -> Tensor:
    """Return the scores of classes under a rule; in the domain `prob` they are that already."""
    if maps.domain == "prob":
        return scores
    return class_probabilities(scores * maps.logit_scale, rule)


def final_scores(
    scores: Tensor, objectness: Tensor | None, maps: ScoreMaps, kept: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return the values (K, R, W) of which the best wins, and where none is high enough (R, W).

    Args:
        scores: (K, R, W), or of phrases (Q, R, W) under a rule; used up.
        objectness: (R, W) in [0, 1].
        maps: how to decide.
        kept: (K) of `canvas.kept_labels`.

    Raises:
        ValueError: the fusion needs objectness and there is none.
    """
    if maps.fusion != "none" and objectness is None:
        raise ValueError(f"fusion {maps.fusion!r} needs objectness maps, got None")
    unsure = None
    if maps.rule is not None:
        scores = class_scores(scores, maps, maps.rule)
        if kept is not None:
            scores = scores * kept.to(scores.device)[:, None, None]
        if maps.rule.probability_threshold:
            unsure = scores.amax(0) < maps.rule.probability_threshold
    if maps.fusion == "complement_product" and objectness is not None:
        scores = complement_product(scores, objectness)
    return scores, unsure


def winner(
    values: Tensor, unsure: Tensor | None, objectness: Tensor | None, maps: ScoreMaps
) -> Tensor:
    """Return the label (R, W) of `final_scores`."""
    # `max`, not `argmax`: several times faster on a CPU, and its ties go to the first by contract.
    if maps.fusion == "foreground_gate" and objectness is not None:
        labels = values[1:].max(0).indices.add_(1)
        labels.masked_fill_(objectness <= OBJECTNESS_THRESHOLD, 0)
    else:
        labels = values.max(0).indices
    return labels if unsure is None else labels.masked_fill_(unsure, 0)


def pixel_probabilities(
    values: Tensor, objectness: Tensor | None, maps: ScoreMaps, kept: Tensor | None
) -> Tensor:
    """Return probabilities (K, R, W) that sum to one from `final_scores`, which are used up."""
    is_prob = maps.domain == "prob" or maps.rule is not None
    if maps.fusion == "foreground_gate" and objectness is not None:
        # The gate decides in two steps, and so do its probabilities: an object or not, which label.
        labels = _normalised(values[1:], is_prob, maps.logit_scale)
        return torch.cat([(1 - objectness)[None], labels * objectness])
    if maps.rule is not None and is_softmax(maps, kept):
        return values
    return _normalised(values, is_prob, maps.logit_scale)


def is_softmax(maps: ScoreMaps, kept: Tensor | None) -> bool:
    """Return whether the probabilities are the softmax of the scaled scores, and nothing else."""
    if maps.domain == "prob" or maps.fusion != "none" or kept is not None:
        return False
    return maps.rule is None or _one_phrase_each(maps.rule)


def softmax_and_entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities (K, R, W) of logits and their entropy in nats (R, W)."""
    probs = logits.softmax(0)
    # - sum p log p = log Z - sum p l, and log Z is known from the best: no logarithm of each.
    log_sum = logits.amax(0) - probs.amax(0).log_()
    return probs, log_sum - logits.mul_(probs).sum(0)


def columns_of(
    probs: Tensor, labels: Tensor, objectness: Tensor | None, surprise: Tensor | None = None
) -> Tensor:
    """Return confidence, margin, entropy and, if there is one, objectness (3 or 4, R, W) in [0, 1].

    Args:
        probs: (K, R, W); used up.
        labels: (R, W) final labels.
        objectness: (R, W).
        surprise: (R, W) entropy in nats, where it is known.
    """
    chosen = labels[None].long()
    confidence = probs.gather(0, chosen)[0]
    if surprise is None:
        surprise = probs.clamp(min=1e-30).log_().mul_(probs).sum(0).neg_()
    others = probs.scatter_(0, chosen, -1.0).amax(0)
    columns = [confidence, confidence.clamp(0, 1) - others, surprise / math.log(len(probs))]
    return torch.stack([*columns, *([] if objectness is None else [objectness])]).clamp_(0, 1)


def _one_phrase_each(rule: DecisionRule) -> bool:
    return rule.class_index_Q.tolist() == list(range(rule.num_classes))


def _normalised(scores: Tensor, is_prob: bool, logit_scale: float) -> Tensor:
    """Return the probabilities of scores, which sum to one; probabilities are changed in place."""
    if not is_prob:
        return (scores * logit_scale).softmax(0)
    # In place: else this is a third of the time that a decision takes.
    total = scores.clamp_(min=0).sum(0)
    return scores.div_(total.clamp(min=1e-12)).masked_fill_(total <= 0, 1 / len(scores))
