"""From the scores of pixels to labels and probabilities. Formulas and their order: methods.md 14.1.

Shapes: Q phrases, K classes with background first, R rows and W columns of pixels (any two axes).
"""

import math

import torch
from torch import Tensor

from ovseg_core.segmenter import DecisionRule, ScoreMaps

MARGIN_PERCENTILE = 0.10
MARGIN_BINS = 1024
"""The percentile of a segment's margins is read from a histogram: right to half a bin, 0.0005."""
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


def behind_best(values: Tensor, maps: ScoreMaps) -> Tensor:
    """Return how far each value that may win is behind the best of its pixel: 0 or less.

    Args:
        values: of `final_scores` (K, R, W); used up where probabilities follow from the result.
        maps: how to decide.

    Returns:
        (K, R, W), or (K - 1, R, W) where a gate decides for background and only labels may win;
        +0.0, never -0.0, for the best and its equals.
    """
    values = values[1:] if maps.fusion == "foreground_gate" else values
    # A best of 0 is made -0.0: less that, zeros of either sign are +0.0.
    best = values.amax(0).neg_().add_(0.0).neg_()
    return values.sub_(best) if _is_softmax_of_behind(maps) else values - best


def winner(
    behind: Tensor, unsure: Tensor | None, objectness: Tensor | None, maps: ScoreMaps
) -> Tensor:
    """Return the label (R, W), int32, of the values that `behind_best` is of."""
    # The bits of a float that is less than 0 are, as an integer, less than 0; those of +0.0 are 0.
    # The first of the best is found so in a fifth of the time of `max(0)` on a CPU.
    num_values = len(behind)
    ranks = torch.arange(num_values, 0, -1, dtype=torch.int32, device=behind.device)
    best = torch.bitwise_or(behind.view(torch.int32), ranks[:, None, None]).amax(0)
    if maps.fusion == "foreground_gate" and objectness is not None:
        labels = (num_values + 1 - best).masked_fill_(objectness <= OBJECTNESS_THRESHOLD, 0)
    else:
        labels = num_values - best
    return labels if unsure is None else labels.masked_fill_(unsure, 0)


def probabilities_and_entropy(
    values: Tensor,
    behind: Tensor,
    objectness: Tensor | None,
    maps: ScoreMaps,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the probabilities (K, R, W), which sum to one, and their entropy in nats (R, W).

    Args:
        values: of `final_scores` (K, R, W); used up.
        behind: of `behind_best`; used up.
        objectness: (R, W).
        maps: how to decide.
        kept: (K) of `canvas.kept_labels`.
    """
    if _is_softmax_of_behind(maps):
        probs, entropy = _softmax_and_entropy(behind, maps.logit_scale)
    else:
        probs = values if len(values) == len(behind) else values[1:]
        if not is_softmax(maps, kept):
            probs = _normalised(probs)
        entropy = probs.clamp(min=1e-30).log_().mul_(probs).sum(0).neg_()
    if maps.fusion != "foreground_gate" or objectness is None:
        return probs, entropy
    # The gate decides in two steps, and so do its probabilities: an object or not, which label.
    closed = 1 - objectness
    of_closed, of_open = torch.special.entr(torch.stack([closed, objectness]).clamp_(0, 1))
    # Where labels have next to nothing, `_normalised` does not bring their sum to one.
    entropy = entropy * objectness + of_closed + of_open * probs.sum(0)
    return torch.cat([closed[None], probs * objectness]), entropy


def is_softmax(maps: ScoreMaps, kept: Tensor | None) -> bool:
    """Return whether the probabilities are the softmax of the scaled scores, and nothing else."""
    if maps.domain == "prob" or maps.fusion != "none" or kept is not None:
        return False
    return maps.rule is None or _one_phrase_each(maps.rule)


def columns_of(probs: Tensor, entropy: Tensor, labels: Tensor, objectness: Tensor | None) -> Tensor:
    """Return confidence, margin, entropy and, if there is one, objectness (3 or 4, R, W) in [0, 1].

    Args:
        probs: (K, R, W); used up.
        entropy: (R, W) in nats.
        labels: (R, W) final labels.
        objectness: (R, W).
    """
    chosen = labels[None].long()
    confidence = probs.gather(0, chosen)[0].clamp_(0, 1)
    others = probs.scatter_(0, chosen, -1.0).amax(0)
    columns = [confidence, confidence - others, entropy / math.log(len(probs))]
    return torch.stack([*columns, *([] if objectness is None else [objectness])]).clamp_(0, 1)


def _is_softmax_of_behind(maps: ScoreMaps) -> bool:
    return maps.domain != "prob" and maps.rule is None


def _softmax_and_entropy(behind: Tensor, logit_scale: float) -> tuple[Tensor, Tensor]:
    """Return the softmax (K, R, W) of scaled scores and its entropy in nats (R, W)."""
    # Powers of 2: on a CPU they take a third of the time of `exp`.
    powers = behind.mul_(logit_scale / math.log(2))
    probs = powers.exp2()
    total = probs.sum(0)
    probs.mul_(total.reciprocal())
    # - sum p log p = log Z - sum p l: no logarithm of each.
    return probs, total.log_() - powers.mul_(probs).sum(0).mul_(math.log(2))


def _one_phrase_each(rule: DecisionRule) -> bool:
    return rule.class_index_Q.tolist() == list(range(rule.num_classes))


def _normalised(probs: Tensor) -> Tensor:
    """Return probabilities that sum to one, changed in place."""
    # In place: else this is a third of the time that a decision takes.
    total = probs.clamp_(min=0).sum(0)
    return probs.div_(total.clamp(min=1e-12)).masked_fill_(total <= 0, 1 / len(probs))
