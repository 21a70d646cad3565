"""Score maps -> label map and the per-pixel numbers behind the review columns.

The scores stay at patch resolution until here and are enlarged in bands of rows, so that no (K,
H, W) array of a whole image ever exists. The label map is the argmax of the method's fused scores
as published. The probabilities serve the score columns only; they never change a label.

Shapes: K classes with background first, (Hc, Wc) the canvas, R rows of one band.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.bilinear import Taps, apply_taps, bilinear_taps
from ovseg_core.nearest import SizeHW, nearest_counts
from ovseg_core.segmenter import ScoreMaps

FloatMap = NDArray[np.float32]

GATE_THRESHOLD = 0.5
"""Objectness at or under which `foreground_gate` says background."""
_BAND_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Elements of one (K, R, Wc) band: it should stay in a CPU's cache, and fill a GPU."""


@dataclass(frozen=True)
class Decision:
    """What was decided for one image, on its canvas. All numbers but the labels are in [0, 1]."""

    label_map: NDArray[np.uint16]
    """(Hc, Wc); 0 is background, k the vocabulary's label k, counted from 1."""
    confidence: FloatMap
    """(Hc, Wc) probability of the pixel's own label."""
    margin: FloatMap
    """(Hc, Wc) that probability less the best other one; 0 where another is higher."""
    entropy: FloatMap
    """(Hc, Wc) entropy of the probabilities, divided by log K."""
    saliency: FloatMap
    """(Hc, Wc) objectness; ones where the method has none."""
    class_mean_prob: NDArray[np.float64]
    """(K,) mean over all pixels of the image at its own size."""
    class_max_prob: NDArray[np.float64]
    """(K,) highest value over those pixels."""


@dataclass(frozen=True)
class _Weights:
    """How many image pixels each canvas row and column becomes, and which become any."""

    rows: Tensor
    columns: Tensor
    used_rows: Tensor | None
    used_columns: Tensor | None


def decide(maps: ScoreMaps, sizes_hw: Sequence[SizeHW]) -> list[Decision]:
    """Decide every image of a batch; `sizes_hw` are the images' own sizes.

    A decision on a large canvas holds 18 bytes a pixel: to keep one at a time, call `decide_one`.
    """
    if len(sizes_hw) != len(maps.levels):
        raise ValueError(
            f"expected a size for each of the {len(maps.levels)} images scored, got {len(sizes_hw)}"
        )
    return [decide_one(maps, index, size_hw) for index, size_hw in enumerate(sizes_hw)]


@torch.inference_mode()
def decide_one(maps: ScoreMaps, index: int, size_hw: SizeHW) -> Decision:
    """Decide image `index` of a batch, whose own size is `size_hw`.

    Raises:
        ValueError: the image has no score map, or fewer than two classes.
    """
    levels = maps.levels[index]
    if not levels or levels[0].shape[0] < 2:
        raise ValueError(
            f"image {index}: expected maps (K, h, w) with K >= 2, got {[t.shape for t in levels]}"
        )
    num_classes, device = levels[0].shape[0], levels[0].device
    height, width = canvas_hw = maps.canvas_hw or size_hw
    weights = _weights(canvas_hw, size_hw, device)
    wide = [_widen(level, canvas_hw) for level in levels]
    theta = (
        None
        if maps.objectness is None
        else _widen(maps.objectness[index][None].to(device), canvas_hw)
    )
    labels = torch.empty(
        canvas_hw, dtype=torch.uint8 if num_classes <= 256 else torch.int32, device=device
    )
    planes = torch.empty((4 if theta is not None else 3, height, width), device=device)
    sums = torch.zeros(num_classes, dtype=torch.float64, device=device)
    peaks = torch.zeros(num_classes, device=device)
    step = max(1, _BAND_ELEMENTS.get(device.type, 1 << 19) // (num_classes * width))
    for start in range(0, height, step):
        band = slice(start, min(start + step, height))
        scores = sum(
            apply_taps(level, taps.rows(band.start, band.stop), 1) for level, taps in wide
        ) / len(wide)
        gate = (
            None
            if theta is None
            else apply_taps(theta[0], theta[1].rows(band.start, band.stop), 1)[0]
        )
        winner, probs = _decide_band(scores, gate, maps)
        labels[band] = winner
        _describe_band(winner, probs, planes[:3, band])
        if gate is not None:
            planes[3, band] = gate.clamp(0, 1)
        _add_class_probs(probs, band, weights, (sums, peaks))
    return _collect(labels, planes, sums / (size_hw[0] * size_hw[1]), peaks)


def _weights(canvas_hw: SizeHW, size_hw: SizeHW, device: torch.device) -> _Weights:
    rows, columns = (
        torch.from_numpy(nearest_counts(num_in, num_out)).to(device)
        for num_in, num_out in zip(canvas_hw, size_hw, strict=True)
    )
    return _Weights(
        rows.double(),
        columns.float(),
        None if bool(rows.all()) else rows > 0,
        None if bool(columns.all()) else columns > 0,
    )


def _widen(level: Tensor, canvas_hw: SizeHW) -> tuple[Tensor, Taps]:
    """Enlarge (K, h, w) to (K, h, Wc); return it with the taps that enlarge its rows."""
    columns = bilinear_taps(level.shape[2], canvas_hw[1], level.device)
    return apply_taps(level, columns, 2), bilinear_taps(level.shape[1], canvas_hw[0], level.device)


def _decide_band(scores: Tensor, theta: Tensor | None, maps: ScoreMaps) -> tuple[Tensor, Tensor]:
    """Return the winner (R, Wc) and the probabilities (K, R, Wc) of scores (K, R, Wc)."""
    # `max`, not `argmax`: several times faster on a CPU, and its ties go to the first by contract.
    if maps.fusion == "none":
        return scores.max(0).indices, _probabilities(scores, maps)
    if theta is None:
        raise ValueError(f"fusion {maps.fusion!r} needs objectness maps, got None")
    if maps.fusion == "complement_product":
        scores = complement_product(scores, theta)
        return scores.max(0).indices, _probabilities(scores, maps)
    winner = scores[1:].max(0).indices.add_(1).masked_fill_(theta <= GATE_THRESHOLD, 0)
    # The gate decides in two steps, and so do its probabilities: foreground or not, which label.
    probs = torch.cat([(1 - theta)[None], _probabilities(scores[1:], maps) * theta])
    return winner, probs


def complement_product(scores: Tensor, theta: Tensor) -> Tensor:
    """Fuse scores (K, R, Wc) with objectness (R, Wc) in place: M_0 (1 - T), M_k T (CLIP-DIY)."""
    scores[0] *= 1 - theta
    scores[1:] *= theta
    return scores


def _probabilities(scores: Tensor, maps: ScoreMaps) -> Tensor:
    if maps.domain == "cosine":
        return (scores * maps.logit_scale).softmax(0)
    scores = scores.clamp(min=0)
    total = scores.sum(0)
    return torch.where(total > 0, scores / total.clamp(min=1e-12), 1 / scores.shape[0])


def _describe_band(winner: Tensor, probs: Tensor, planes: Tensor) -> None:
    """Write confidence, margin and entropy of one band into `planes` (3, R, Wc)."""
    chosen = winner[None].long()
    planes[0] = probs.gather(0, chosen)[0].clamp_(0, 1)
    planes[1] = (planes[0] - probs.scatter(0, chosen, -1.0).amax(0)).clamp_(0, 1)
    surprise = probs.clamp(min=1e-30).log_().mul_(probs).sum(0)
    planes[2] = (surprise / -math.log(probs.shape[0])).clamp_(0, 1)


def _add_class_probs(
    probs: Tensor, band: slice, weights: _Weights, totals: tuple[Tensor, Tensor]
) -> None:
    sums, peaks = totals
    sums += (probs @ weights.columns).double() @ weights.rows[band]
    if weights.used_rows is not None:
        probs = probs[:, weights.used_rows[band]]
    if weights.used_columns is not None:
        probs = probs[:, :, weights.used_columns]
    if probs.numel():
        torch.maximum(peaks, probs.amax((1, 2)), out=peaks)


def _collect(labels: Tensor, planes: Tensor, mean: Tensor, peak: Tensor) -> Decision:
    label_map = labels.cpu().numpy().astype(np.uint16)
    arrays = planes.cpu().numpy()
    ones = np.broadcast_to(np.float32(1), label_map.shape)
    return Decision(
        label_map=label_map,
        confidence=arrays[0],
        margin=arrays[1],
        entropy=arrays[2],
        saliency=arrays[3] if len(arrays) > 3 else ones,
        class_mean_prob=mean.clamp(0, 1).cpu().numpy(),
        class_max_prob=peak.clamp(0, 1).double().cpu().numpy(),
    )
