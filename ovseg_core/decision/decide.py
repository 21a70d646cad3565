"""Score maps -> label map and the per-pixel numbers behind the score columns.

The scores stay at patch resolution until here. A canvas of up to a megapixel, and one of scores
that are not bilinear between patches, is computed at every pixel, in bands of rows, so that no
(K, H, W) array of a whole image ever exists; a larger one in cells (`decision.cells`), and its
columns from samples (`decision.samples`). The label map
is the argmax of the method's fused scores as published, after the vote of its regions if there are
any: the confidence of a pixel is then the probability of the label that it was given, and its
margin 0 where another label has more. The probabilities serve the score columns only; they never
change a label, unless the method's own rule decides by them. Formulas and their order:
docs/methods.md 14.1.

Shapes: Q phrases, K classes with background first, (Hc, Wc) the canvas, R rows of one band.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.decision.canvas import ScoredCanvas, kept_labels
from ovseg_core.decision.instances.instances import Instances, instances_of
from ovseg_core.decision.large_canvas import decide_large
from ovseg_core.decision.refine.components import refined_labels
from ovseg_core.decision.samples import SAMPLED_FROM_PX, SampledColumns, Samples
from ovseg_core.decision.values import (
    behind_best,
    columns_of,
    probabilities_and_entropy,
    winner,
)
from ovseg_core.images.resize.nearest import SizeHW, nearest_counts
from ovseg_core.segmenter import ScoreMaps, check_finite

logger = logging.getLogger(__name__)

FloatMap = NDArray[np.float32]

_BAND_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Elements of one (K, R, Wc) band: it should stay in a CPU's cache, and fill a GPU."""
_LEAST_ELEMENTS = 1 << 14
"""A band of fewer that does not fit into memory is not the reason why there is none."""


@dataclass(frozen=True)
class Decision:
    """The decision on one image, on its canvas. All numbers but the labels are in [0, 1].

    Confidence, margin, entropy and objectness are (Hc, Wc), or (N,) where there are samples.
    """

    label_map: NDArray[np.uint16]
    """(Hc, Wc); 0 is background, k the vocabulary's label k, counted from 1."""
    confidence: FloatMap
    """Probability of the pixel's own label."""
    margin: FloatMap
    """That probability minus the best other one; 0 where another is higher."""
    entropy: FloatMap
    """Entropy of the probabilities, divided by log K."""
    objectness: FloatMap
    """Ones where the method has none."""
    class_mean_prob: NDArray[np.float64]
    """(K,) mean over all pixels of the image at its own size."""
    class_max_prob: NDArray[np.float64]
    """(K,) highest value over those pixels."""
    samples: Samples | None = None
    """Which pixels the values are of; None: all of them, in order."""
    instances: Instances | None = None
    """Objects, from the proposals; None where the score maps have none."""


def decide(maps: ScoreMaps, sizes_hw: Sequence[SizeHW]) -> list[Decision]:
    """Decide every image of a batch; `sizes_hw` are the images' own sizes.

    A decision on a large canvas holds 2 to 18 bytes a pixel: to keep one at a time, call
    `decide_one`.

    Raises:
        ValueError: as `decide_one`, or the number of sizes is not that of the images.
    """
    if len(sizes_hw) != len(maps.levels):
        raise ValueError(
            f"expected a size for each of the {len(maps.levels)} images scored, got {len(sizes_hw)}"
        )
    return [decide_one(maps, index, size_hw) for index, size_hw in enumerate(sizes_hw)]


@torch.inference_mode()
def decide_one(
    maps: ScoreMaps,
    index: int,
    size_hw: SizeHW,
    *,
    band_elements: int = 0,
    sampled_from_px: int = SAMPLED_FROM_PX,
) -> Decision:
    """Decide one image of a batch.

    Args:
        maps: of the batch.
        index: place of the image in the batch.
        size_hw: the image's own size.
        band_elements: largest number of elements of a (K, R, Wc) band; 0: what suits the device.
        sampled_from_px: a canvas of more pixels is decided in cells, and sampled.

    Raises:
        ValueError: the image has no score map, or fewer than two classes, or its fusion needs
            objectness and there is none.
        ImageError: `not_finite`, as `check_finite`.
    """
    levels = maps.levels[index]
    if not levels or levels[0].shape[0] < 2:
        raise ValueError(
            f"image {index}: expected maps (K, h, w) with K >= 2, got {[t.shape for t in levels]}"
        )
    check_finite((levels, () if maps.objectness is None else maps.objectness[index]), "scores")
    elements = band_elements or _BAND_ELEMENTS.get(levels[0].device.type, _BAND_ELEMENTS["cpu"])
    while True:
        try:
            canvas = ScoredCanvas(maps, index, maps.canvas_hw or size_hw, elements)
            is_large = math.prod(canvas.canvas_hw) > sampled_from_px
            found = decide_large(canvas) if is_large and canvas.canvas_hw == size_hw else None
            decision = _banded(canvas, size_hw) if found is None else _sampled(canvas, *found)
            if maps.proposals is None:
                return decision
            return replace(decision, instances=instances_of(maps, index, size_hw, elements))
        except (torch.OutOfMemoryError, MemoryError):
            if elements <= _LEAST_ELEMENTS:
                raise
            elements //= 2
            logger.warning("out of memory in a decision; again with bands of %d scores", elements)
            if levels[0].is_cuda:
                torch.cuda.empty_cache()


def _sampled(canvas: ScoredCanvas, labels_HW: Tensor, found: SampledColumns) -> Decision:
    values = found.values.cpu().numpy()
    ones = np.broadcast_to(np.float32(1), values.shape[1:])
    return Decision(
        label_map=labels_HW.cpu().numpy().astype(np.uint16),
        confidence=values[0],
        margin=values[1],
        entropy=values[2],
        objectness=values[3] if canvas.objectness is not None else ones,
        class_mean_prob=found.class_mean_prob.clamp(0, 1).cpu().numpy(),
        class_max_prob=found.class_max_prob.double().cpu().numpy(),
        samples=found.samples,
    )


def _banded(canvas: ScoredCanvas, size_hw: SizeHW) -> Decision:
    maps = canvas.maps
    kept = kept_labels(maps, canvas.scores, canvas.bands)
    changed = None
    if maps.prompted is not None or (maps.regions is not None and maps.regions[canvas.index]):
        # The scores are computed twice: vote and refinement need all labels, the columns the
        # changed ones.
        changed = refined_labels(canvas, canvas.voted(canvas.labels(kept)), kept)
    buffer = _DecisionBuffer(
        canvas.num_classes,
        canvas.device,
        canvas.canvas_hw,
        size_hw,
        with_objectness=canvas.objectness is not None,
    )
    for band in canvas.bands:
        values, unsure, shown = canvas.values(band, kept)
        behind = behind_best(values, maps)
        won = winner(behind, unsure, shown, maps) if changed is None else changed[band]
        probs, entropy = probabilities_and_entropy(values, behind, shown, maps, kept)
        buffer.write(band, won, probs, entropy, shown)
    return buffer.decision()


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
        self._is_used_HW = None
        if not (rows.all() and columns.all()):
            self._is_used_HW = ((rows > 0)[:, None] & (columns > 0)).to(device)

    def write(
        self,
        band: slice,
        winner: Tensor,
        probs: Tensor,
        entropy: Tensor,
        objectness: Tensor | None,
    ) -> None:
        """Take winner, entropy, objectness (R, Wc) and the probabilities (K, R, Wc) of a band.

        The probabilities are used up.
        """
        self._labels[band] = winner
        self._sums += (probs @ self._column_counts).double() @ self._row_counts[band]
        used = probs if self._is_used_HW is None else probs * self._is_used_HW[band]
        torch.maximum(self._peaks, used.flatten(1).amax(1), out=self._peaks)
        self._planes[:, band] = columns_of(probs, entropy, winner, objectness)

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
