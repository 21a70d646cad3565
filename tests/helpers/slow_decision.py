"""The decision as it was before cells and samples: slow, every pixel of every class.

It is what the labels of `ovseg_core.decision.decide` must equal bit by bit, and what its columns
must be near. Kept as it was, but for its imports.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ovseg_core.decision.decide import Decision
from ovseg_core.decision.refine.pamr import RefinedMap, RowsOfMaps
from ovseg_core.decision.refine.region_vote import vote_in_turn
from ovseg_core.images.resize.bilinear import MeanMap
from ovseg_core.images.resize.nearest import SizeHW, nearest_counts
from ovseg_core.images.resize.stitching import StitchedMap
from ovseg_core.segmenter import DecisionRule, ScoreMaps

OBJECTNESS_THRESHOLD = 0.5
"""Objectness at or under which `foreground_gate` says background."""
_BAND_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Elements of one (K, R, Wc) band: it should stay in a CPU's cache, and fill a GPU."""


@torch.inference_mode()
def decide_one(maps: ScoreMaps, index: int, size_hw: SizeHW, *, band_elements: int = 0) -> Decision:
    """Decide one image of a batch.

    Args:
        maps: of the batch.
        index: place of the image in the batch.
        size_hw: the image's own size.
        band_elements: largest number of elements of a (K, R, Wc) band; 0: what suits the device.

    Raises:
        ValueError: the image has no score map, or fewer than two classes, or its fusion needs
            objectness and there is none.
    """
    levels = maps.levels[index]
    if not levels or levels[0].shape[0] < 2:
        raise ValueError(
            f"image {index}: expected maps (K, h, w) with K >= 2, got {[t.shape for t in levels]}"
        )
    canvas_hw = maps.canvas_hw or size_hw
    scores = score_map(maps, index, canvas_hw)
    objectness = None
    if maps.objectness is not None:
        objectness = MeanMap([maps.objectness[index][None].to(levels[0].device)], canvas_hw)
    bands = list(_bands(levels[0], canvas_hw, band_elements))
    kept = kept_labels(maps, scores, bands)

    def decide_band(band: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        shown = None if objectness is None else objectness.rows(band)[0]
        return *_decide_band(scores.rows(band), shown, maps, kept), shown

    voted = None
    if maps.regions is not None and maps.regions[index]:
        # The scores are computed twice: the vote needs all labels, the columns the voted ones.
        labels = torch.cat([decide_band(band)[0].int() for band in bands])
        voters = None
        if objectness is not None and maps.fusion == "foreground_gate":
            rows = (objectness.rows(band)[0] for band in bands)
            voters = torch.cat([row > OBJECTNESS_THRESHOLD for row in rows])
        voted = vote_in_turn(labels, maps.regions[index], voters)
    num_classes = levels[0].shape[0] if maps.rule is None else maps.rule.num_classes
    buffer = _DecisionBuffer(
        num_classes, levels[0].device, canvas_hw, size_hw, with_objectness=objectness is not None
    )
    for band in bands:
        winner, probs, shown = decide_band(band)
        buffer.write(band, winner if voted is None else voted[band], probs, shown)
    return buffer.decision()


def score_map(maps: ScoreMaps, index: int, canvas_hw: SizeHW) -> RowsOfMaps:
    """Return the scores of image `index` on its canvas, computed by bands of rows."""
    levels = maps.levels[index]
    if maps.stitches is None:
        scores = MeanMap(levels, canvas_hw)
    else:
        scores = StitchedMap(levels[0], maps.stitches[index], canvas_hw)
    if maps.refinement is None:
        return scores
    return RefinedMap(scores, len(levels[0]), maps.refinement, index, canvas_hw)


def kept_labels(maps: ScoreMaps, scores: RowsOfMaps, bands: Sequence[slice]) -> Tensor | None:
    """Return 1 or 0 (K) for each class: whether it wins enough of the image; None: no such rule."""
    if maps.rule is None or not maps.rule.area_threshold:
        return None
    won = torch.zeros(maps.rule.num_classes, dtype=torch.int64)
    for band in bands:
        probs = _class_scores(scores.rows(band), maps, maps.rule)
        won += probs.max(0).indices.flatten().bincount(minlength=len(won)).cpu()
    won[0] = 0
    kept = won > maps.rule.area_threshold * won.sum()
    kept[0] = True
    return kept.float()


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
    """Fuse scores M (K, R, Wc) with objectness T (R, Wc) in place: M_0 (1 - T), M_k T.

    CLIP-DIY, docs/methods.md 2.
    """
    scores[0] *= 1 - objectness
    scores[1:] *= objectness
    return scores


def _bands(level: Tensor, canvas_hw: SizeHW, band_elements: int) -> Iterator[slice]:
    """Yield rows that fit the device's cache with all their scores."""
    height, width = canvas_hw
    elements = band_elements or _BAND_ELEMENTS.get(level.device.type, _BAND_ELEMENTS["cpu"])
    step = max(1, elements // (level.shape[0] * width))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _decide_band(
    scores: Tensor, objectness: Tensor | None, maps: ScoreMaps, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the winner (R, Wc) and the probabilities (K, R, Wc) of one band.

    Args:
        scores: (K, R, Wc), or of phrases (Q, R, Wc) under a rule; used up.
        objectness: (R, Wc) in [0, 1].
        maps: how to decide.
        kept: (K) of `kept_labels`.
    """
    rule, unsure = maps.rule, None
    is_prob, sums_to_one = maps.domain == "prob", False
    if rule is not None:
        sums_to_one = not is_prob and _one_phrase_each(rule) and kept is None
        scores, is_prob = _class_scores(scores, maps, rule), True
        if kept is not None:
            scores = scores * kept.to(scores.device)[:, None, None]
        if rule.probability_threshold:
            unsure = scores.max(0).values < rule.probability_threshold
    # `max`, not `argmax`: several times faster on a CPU, and its ties go to the first by contract.
    if maps.fusion == "none":
        winner = scores.max(0).indices
        probs = scores if sums_to_one else _normalised(scores, is_prob, maps.logit_scale)
    elif objectness is None:
        raise ValueError(f"fusion {maps.fusion!r} needs objectness maps, got None")
    elif maps.fusion == "complement_product":
        scores = complement_product(scores, objectness)
        winner = scores.max(0).indices
        probs = _normalised(scores, is_prob, maps.logit_scale)
    else:
        winner = scores[1:].max(0).indices.add_(1)
        winner.masked_fill_(objectness <= OBJECTNESS_THRESHOLD, 0)
        # The gate decides in two steps, and so do its probabilities: an object or not, which label.
        labels = _normalised(scores[1:], is_prob, maps.logit_scale)
        probs = torch.cat([(1 - objectness)[None], labels * objectness])
    if unsure is not None:
        winner.masked_fill_(unsure, 0)
    return winner, probs


def _class_scores(scores: Tensor, maps: ScoreMaps, rule: DecisionRule) -> Tensor:
    """Return the scores of classes under a rule; in the domain `prob` they are that already."""
    if maps.domain == "prob":
        return scores
    return class_probabilities(scores * maps.logit_scale, rule)


def _one_phrase_each(rule: DecisionRule) -> bool:
    return rule.class_index_Q.tolist() == list(range(rule.num_classes))


def _normalised(scores: Tensor, is_prob: bool, logit_scale: float) -> Tensor:
    """Return the probabilities of scores, which sum to one; probabilities are changed in place."""
    if not is_prob:
        return (scores * logit_scale).softmax(0)
    # In place: else this is a third of the time that a decision takes.
    total = scores.clamp_(min=0).sum(0)
    return scores.div_(total.clamp(min=1e-12)).masked_fill_(total <= 0, 1 / len(scores))


class _DecisionBuffer:
    """The maps of a decision, filled in band by band, on the device of the scores."""

    def __init__(
        self,
        num_classes: int,
        device: torch.device,
        canvas_hw: SizeHW,
        size_hw: SizeHW,
        *,
        with_objectness: bool,
    ) -> None:
        self._num_classes = num_classes
        small = torch.uint8 if num_classes <= 256 else torch.int32
        self._labels = torch.empty(canvas_hw, dtype=small, device=device)
        self._planes = torch.empty((4 if with_objectness else 3, *canvas_hw), device=device)
        self._sums = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self._peaks = torch.zeros(num_classes, device=device)
        rows, columns = (
            torch.from_numpy(nearest_counts(num_in, num_out))
            for num_in, num_out in zip(canvas_hw, size_hw, strict=True)
        )
        self._num_pixels = size_hw[0] * size_hw[1]
        self._row_counts, self._column_counts = rows.double().to(device), columns.float().to(device)
        # A reduction to the image's size skips some rows and columns: they do not count.
        self._used_rows = None if bool(rows.all()) else (rows > 0).to(device)
        self._used_columns = (columns > 0).to(device)

    def write(self, band: slice, winner: Tensor, probs: Tensor, objectness: Tensor | None) -> None:
        """Take the winner (R, Wc), probabilities (K, R, Wc) and objectness (R, Wc) of a band.

        The probabilities are used up.
        """
        planes, chosen = self._planes[:, band], winner[None].long()
        self._labels[band] = winner
        planes[0] = probs.gather(0, chosen)[0].clamp_(0, 1)
        surprise = probs.clamp(min=1e-30).log_().mul_(probs).sum(0)
        planes[2] = (surprise / -math.log(self._num_classes)).clamp_(0, 1)
        if objectness is not None:
            planes[3] = objectness.clamp(0, 1)
        self._sums += (probs @ self._column_counts).double() @ self._row_counts[band]
        used = probs if self._used_rows is None else probs[:, self._used_rows[band]]
        if used.shape[1]:
            peaks = used.amax(1)[:, self._used_columns].amax(1)
            torch.maximum(self._peaks, peaks, out=self._peaks)
        planes[1] = (planes[0] - probs.scatter_(0, chosen, -1.0).amax(0)).clamp_(0, 1)

    def decision(self) -> Decision:
        """Return the decision on the CPU."""
        label_map = self._labels.cpu().numpy().astype(np.uint16)
        planes = self._planes.cpu().numpy()
        ones = np.broadcast_to(np.float32(1), label_map.shape)
        return Decision(
            label_map=label_map,
            confidence=planes[0],
            margin=planes[1],
            entropy=planes[2],
            objectness=planes[3] if len(planes) > 3 else ones,
            class_mean_prob=(self._sums / self._num_pixels).clamp(0, 1).cpu().numpy(),
            class_max_prob=self._peaks.clamp(0, 1).double().cpu().numpy(),
        )
