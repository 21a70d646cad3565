"""The decision on a canvas of many pixels: labels by cells, score columns by samples.

The label map is that of the banded way, bit by bit; where cells cannot say it, it is computed in
bands. What is neither (PAMR, a canvas that is resized to the image) keeps the banded way as a
whole.

Shapes: Q phrases, K classes with background first, (H, W) the canvas.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ovseg_core.decision.canvas import ScoredCanvas, kept_labels, large_enough
from ovseg_core.decision.cells import Axis, Cells, cells_of, winners
from ovseg_core.decision.refine.components import refined_labels
from ovseg_core.decision.samples import Field, SampledColumns, block_side, sample_columns
from ovseg_core.decision.values import (
    OBJECTNESS_THRESHOLD,
    behind_best,
    class_scores,
    final_scores,
    probabilities_and_entropy,
    winner,
)
from ovseg_core.images.resize.bilinear import MeanMap

_CELL_PX = (8, 24)
"""Smallest and largest side of a cell; a small canvas has more outlines for its size."""
_CELLS_PER_SIDE = 64
_LOG_RANGE = 80.0
"""exp(-80) is a normal float32: a probability of that share of the best one is not rounded to 0."""
_CLOSE_LOGITS = 1e-6
"""Logits that differ by less may have the same probability."""
_MANY_GROUPS = 16
_ALIKE_ROWS = 4


def decide_large(canvas: ScoredCanvas) -> tuple[Tensor, SampledColumns] | None:
    """Return the labels (H, W) and the samples of a canvas; None: it needs the banded way."""
    maps = canvas.maps
    if maps.refinement is not None:
        return None
    largest = max(float(level.abs().max()) for level in maps.levels[canvas.index])
    nodes = cells_of(canvas.bilinear, canvas.canvas_hw, max(canvas.canvas_hw), largest)
    shown = None
    if nodes is None:
        return None
    if canvas.objectness is not None:
        shown = cells_of(canvas.objectness, canvas.canvas_hw, max(canvas.canvas_hw), 1.0)
        if shown is None:
            shown = _every_pixel(canvas, canvas.objectness)
    found = _labels_by_cells(canvas, largest)
    if found is None:
        kept = kept_labels(canvas.maps, canvas.scores, canvas.bands)
        found = canvas.labels(kept), kept
    labels_HW, kept = found
    labels_HW = refined_labels(canvas, canvas.voted(labels_HW), kept)
    side = block_side(labels_HW.numel())
    return labels_HW, sample_columns(_field(canvas, nodes, shown, kept), labels_HW, side)


def _every_pixel(canvas: ScoredCanvas, objectness: MeanMap) -> Cells:
    """Return a map with a node at every pixel: it has as many patches as the canvas has pixels."""
    rows = torch.cat([objectness.rows(band) for band in canvas.bands], dim=1)
    axes = (
        Axis(torch.arange(side), torch.arange(side), torch.zeros(side, dtype=torch.float64), 0.0)
        for side in canvas.canvas_hw
    )
    return Cells(*axes, scores_Qnm=rows, error=0.0)


def _field(canvas: ScoredCanvas, nodes: Cells, shown: Cells | None, kept: Tensor | None) -> Field:
    maps = canvas.maps

    def probabilities(scores: Tensor, objectness: Tensor | None) -> tuple[Tensor, Tensor]:
        values, _ = final_scores(scores, objectness, maps, kept)
        behind = behind_best(values, maps)
        return probabilities_and_entropy(values, behind, objectness, maps, kept)

    return Field(nodes, shown, probabilities, canvas.band_elements)


def _label_cells(canvas: ScoredCanvas, largest: float) -> Cells | None:
    """Return the cells that labels can be decided by; None: cells cannot say them."""
    maps, rule = canvas.maps, canvas.maps.rule
    if maps.fusion == "complement_product" or (rule is not None and rule.probability_threshold):
        return None
    if rule is not None:
        drops = rule.area_threshold > 0
        if maps.domain == "prob":
            if drops:
                return None  # values below zero would lose to the zeros of dropped labels
        elif (drops or maps.fusion == "foreground_gate") and (
            2 * largest * maps.logit_scale > _LOG_RANGE
        ):
            return None
    low, high = _CELL_PX
    side = round((canvas.canvas_hw[0] * canvas.canvas_hw[1]) ** 0.5 / _CELLS_PER_SIDE)
    return cells_of(canvas.bilinear, canvas.canvas_hw, min(max(side, low), high), largest)


def _labels_by_cells(canvas: ScoredCanvas, largest: float) -> tuple[Tensor, Tensor | None] | None:
    """Return labels (H, W) and which classes are kept (K); None: cells cannot say it."""
    cells = _label_cells(canvas, largest)
    if cells is None:
        return None
    maps, rule = canvas.maps, canvas.maps.rule
    of_phrases = rule is not None and maps.domain != "prob"
    is_gated = maps.fusion == "foreground_gate"
    slack = 2 * cells.error + (_CLOSE_LOGITS / maps.logit_scale if of_phrases else 0.0)
    class_index_Q = torch.arange(canvas.num_phrases, device=canvas.device)
    if rule is not None and of_phrases:
        class_index_Q = rule.class_index_Q.to(canvas.device)

    def decided(phrases: Tensor, kept: Tensor | None, *, is_final: bool) -> Tensor:
        some, index = cells, class_index_Q
        if not phrases.all():
            some, index = replace(cells, scores_Qnm=cells.scores_Qnm[phrases]), index[phrases]
        found = winners(some, index, slack, canvas.num_classes)
        _decide_close(canvas, found.labels_HW, found.close, kept, is_final=is_final)
        return found.labels_HW

    kept, labels_HW = None, None
    phrases = torch.ones_like(class_index_Q, dtype=torch.bool)
    if rule is not None and rule.area_threshold:
        labels_HW = decided(phrases, None, is_final=False)
        won = torch.bincount(labels_HW.flatten(), minlength=canvas.num_classes).cpu()
        kept = large_enough(won, rule)
        phrases &= kept.to(canvas.device)[class_index_Q] > 0
    if is_gated:
        phrases &= class_index_Q > 0
    if not phrases.any():
        return None
    if labels_HW is None or not phrases.all():
        labels_HW = decided(phrases, kept, is_final=True)
    if is_gated:
        _close_gate(canvas, labels_HW)
    return labels_HW, kept


def _close_gate(canvas: ScoredCanvas, labels_HW: Tensor) -> None:
    """Set labels to background, in place, where the objectness says so."""
    for band in canvas.bands:
        shown = canvas.shown(band)
        if shown is not None:
            labels_HW[band].masked_fill_(shown <= OBJECTNESS_THRESHOLD, 0)


def _decide_close(
    canvas: ScoredCanvas, labels_HW: Tensor, close: Tensor, kept: Tensor | None, *, is_final: bool
) -> None:
    """Decide pixels whose best two scores rounding tells apart, by the arithmetic of their bands.

    Args:
        canvas: the scores.
        labels_HW: labels of the canvas, changed in place.
        close: row-major places of the pixels.
        kept: which classes are kept (K).
        is_final: else labels are those before any is dropped and before the gate.
    """
    maps = canvas.maps
    row, column = close.cpu() // canvas.canvas_hw[1], close.cpu() % canvas.canvas_hw[1]
    groups = list(_rows_at_once(canvas, row.unique()))
    rows_of = canvas.bilinear.rows if len(groups) > _MANY_GROUPS else canvas.bilinear.few_rows
    for rows in groups:
        here = ((row >= rows[0]) & (row <= rows[-1])).nonzero()[:, 0]
        places = torch.searchsorted(rows, row[here]), column[here]
        scores, shown = rows_of(rows), canvas.shown(rows)
        if maps.rule is None:
            scores = scores[:, places[0], places[1]][:, None]
            shown = None if shown is None else shown[places][None]
        if maps.rule is None or is_final:
            values, unsure = final_scores(scores, shown, maps, kept)
            label = winner(behind_best(values, maps), unsure, shown, maps)
        else:
            label = class_scores(scores, maps, maps.rule).max(0).indices
        label = label[0] if maps.rule is None else label[places]
        labels_HW.view(-1)[close[here.to(close.device)]] = label.to(labels_HW.dtype)


def _rows_at_once(canvas: ScoredCanvas, rows: Tensor) -> Iterator[Tensor]:
    """Yield rows, ascending, that hold some rows and whose scores are those of their bands.

    A matrix product of 4 rows or more gives each of them the same, bit by bit; one of fewer may
    round in another way, and so may a softmax of another shape: then the whole band is taken.
    """
    last = canvas.bands[-1]
    if canvas.maps.rule is None and canvas.band_rows >= _ALIKE_ROWS:
        end = last.stop if last.stop - last.start >= _ALIKE_ROWS else last.start
        alike, rows = rows[rows < end], rows[rows >= end]
        for group in alike.split(2 * _ALIKE_ROWS) if len(alike) else ():
            yield torch.cat([group, group[-1:].expand(max(_ALIKE_ROWS - len(group), 0))])
    for number in (rows // canvas.band_rows).unique().tolist():
        band = canvas.bands[number]
        yield torch.arange(band.start, band.stop)
