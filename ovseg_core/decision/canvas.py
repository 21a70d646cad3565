"""The scores of one image on its canvas, band by band, and the labels that follow from them.

Shapes: Q phrases, K classes with background first, (H, W) the canvas, R rows of one band.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ovseg_core.decision.refine.pamr import RefinedMap, RowsOfMaps
from ovseg_core.decision.refine.region_vote import vote_in_turn
from ovseg_core.decision.values import (
    OBJECTNESS_THRESHOLD,
    behind_best,
    class_scores,
    final_scores,
    winner,
)
from ovseg_core.images.resize.bilinear import MeanMap, Rows
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.images.resize.stitching import StitchedMap
from ovseg_core.segmenter import DecisionRule, ScoreMaps


class ScoredCanvas:
    """One image of a batch, on its canvas.

    Args:
        maps: of the batch.
        index: place of the image in the batch.
        canvas_hw: size of the canvas.
        band_elements: largest number of elements of a (Q, R, W) band.

    Attributes:
        scores: all scores, enlarged and refined.
        objectness: one map, enlarged; None where there is none.
        band_elements: as given.
        bands: rows that are computed at once.
        band_rows: rows of each band, but for the last.
        num_classes: K.
    """

    def __init__(self, maps: ScoreMaps, index: int, canvas_hw: SizeHW, band_elements: int) -> None:
        self.maps, self.index, self.canvas_hw = maps, index, canvas_hw
        self.band_elements = band_elements
        level = maps.levels[index][0]
        self.device, self.num_phrases = level.device, level.shape[0]
        self.num_classes = self.num_phrases if maps.rule is None else maps.rule.num_classes
        self.bilinear = _bilinear(maps, index, canvas_hw)
        self.scores = score_map(maps, index, canvas_hw)
        self.objectness = None
        if maps.objectness is not None:
            self.objectness = MeanMap([maps.objectness[index][None].to(self.device)], canvas_hw)
        self.band_rows = max(1, band_elements // (self.num_phrases * canvas_hw[1]))
        self.bands = list(_bands(canvas_hw[0], self.band_rows))

    def shown(self, band: Rows) -> Tensor | None:
        """Return the objectness of a band (R, W)."""
        return None if self.objectness is None else self.objectness.rows(band)[0]

    def values(
        self, band: slice, kept: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return `final_scores` of a band, and its objectness."""
        shown = self.shown(band)
        return *final_scores(self.scores.rows(band), shown, self.maps, kept), shown

    def labels(self, kept: Tensor | None) -> Tensor:
        """Return the label of each pixel (H, W), before the vote of regions."""
        found = []
        for band in self.bands:
            values, unsure, shown = self.values(band, kept)
            found.append(winner(behind_best(values, self.maps), unsure, shown, self.maps))
        return torch.cat(found)

    def voted(self, labels_HW: Tensor) -> Tensor:
        """Return the labels after the vote of regions, if there are any."""
        regions = None if self.maps.regions is None else self.maps.regions[self.index]
        if not regions:
            return labels_HW
        voters = None
        if self.objectness is not None and self.maps.fusion == "foreground_gate":
            rows = (self.objectness.rows(band)[0] for band in self.bands)
            voters = torch.cat([row > OBJECTNESS_THRESHOLD for row in rows])
        return vote_in_turn(labels_HW.int(), regions, voters)


def score_map(maps: ScoreMaps, index: int, canvas_hw: SizeHW) -> RowsOfMaps:
    """Return the scores of image `index` on its canvas, computed by bands of rows."""
    scores = _bilinear(maps, index, canvas_hw)
    if maps.refinement is None:
        return scores
    return RefinedMap(scores, len(maps.levels[index][0]), maps.refinement, index, canvas_hw)


def _bilinear(maps: ScoreMaps, index: int, canvas_hw: SizeHW) -> MeanMap | StitchedMap:
    levels = maps.levels[index]
    if maps.stitches is None:
        return MeanMap(levels, canvas_hw)
    return StitchedMap(levels[0], maps.stitches[index], canvas_hw)


def kept_labels(maps: ScoreMaps, scores: RowsOfMaps, bands: Sequence[slice]) -> Tensor | None:
    """Return 1 or 0 (K) for each class: whether it wins enough of the image; None: no such rule."""
    if maps.rule is None or not maps.rule.area_threshold:
        return None
    won = torch.zeros(maps.rule.num_classes, dtype=torch.int64)
    for band in bands:
        probs = class_scores(scores.rows(band), maps, maps.rule)
        won += probs.max(0).indices.flatten().bincount(minlength=len(won)).cpu()
    return large_enough(won, maps.rule)


def large_enough(won: Tensor, rule: DecisionRule) -> Tensor:
    """Return 1 or 0 (K) for each class from the pixels that it wins (K)."""
    won[0] = 0
    kept = won > rule.area_threshold * won.sum()
    kept[0] = True
    return kept.float()


def _bands(height: int, step: int) -> Iterator[slice]:
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))
