"""PAMR (Araslanov and Roth, CVPR 2020): pixel-adaptive mask refinement.

In every step a pixel's score becomes the mean of its neighbours' at a few distances, weighted by
the similarity of their colours (docs/methods.md 11). A band of rows depends on no more than
`Pamr.reach_px` further rows, so the result is computed band by band.

Shapes: Q maps, P neighbours (8 for each dilation), H W pixels, R rows of one band.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.images.resize.bilinear import MeanMap

_OFFSETS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x)
_BLOCK_ELEMENTS = 1 << 26
"""Refined scores, or weights, held at once: 256 MB; most photographs are one block."""
_CHUNK_ELEMENTS = 1 << 23
"""Scores refined at once through all steps, small enough to stay in the CPU's cache."""


class RowsOfMaps(Protocol):
    """Maps that are computed in bands of rows."""

    def rows(self, band: slice, maps: slice = ...) -> Tensor:
        """Return the rows of a band of the selected maps, float32 (Q, R, W)."""
        ...


@dataclass(frozen=True)
class Pamr:
    """Pixel-adaptive mask refinement.

    Attributes:
        steps: number of refinement steps.
        dilations: distances of the neighbours in pixels.
    """

    steps: int
    dilations: tuple[int, ...]

    @property
    def reach_px(self) -> int:
        """Largest distance in rows or columns at which a pixel has an influence."""
        return self.steps * max(self.dilations)

    def __call__(self, guide_3HW: Tensor, scores_QHW: Tensor) -> Tensor:
        """Return the refined scores.

        Args:
            guide_3HW: the image; scale and offset of its channels make no difference.
            scores_QHW: resized to the guide with aligned corners, if they have another size.
        """
        if scores_QHW.shape[1:] != guide_3HW.shape[1:]:
            size = guide_3HW.shape[1:]
            scores_QHW = F.interpolate(scores_QHW[None], size, mode="bilinear", align_corners=True)[
                0
            ]
        return self.flow(scores_QHW, self.weights(guide_3HW.float()))

    def weights(self, guide_3HW: Tensor) -> Tensor:
        """Return the weight (P, H, W) of each neighbour; they sum to one at every pixel."""
        # One neighbour at a time: all of them together would be 3 P images.
        num_samples = (len(_OFFSETS) + 1) * len(self.dilations)
        mean_3HW = sum(self._samples(guide_3HW)) / num_samples
        squares_3HW = sum((near - mean_3HW).square() for near in self._samples(guide_3HW))
        sigma_3HW = torch.as_tensor(squares_3HW / (num_samples - 1)).sqrt()
        # w_p = softmax_p mean_c -|x - x_p| / (1e-8 + 0.1 sigma_c)
        scale_3HW = 1e-8 + 0.1 * sigma_3HW
        num_neighbours = len(_OFFSETS) * len(self.dilations)
        unlike_PHW = guide_3HW.new_empty(num_neighbours, *guide_3HW.shape[1:])
        for unlike_HW, near_3HW in zip(unlike_PHW, self._neighbours(guide_3HW), strict=True):
            torch.mean((near_3HW - guide_3HW).abs() / scale_3HW, dim=0, out=unlike_HW)
        return unlike_PHW.neg_().softmax(dim=0)

    def _samples(self, guide_3HW: Tensor) -> Iterator[Tensor]:
        """Yield the samples of sigma: the neighbours and, once per dilation, the pixel itself."""
        yield from self._neighbours(guide_3HW)
        for _ in self.dilations:
            yield guide_3HW

    def flow(self, scores_QHW: Tensor, weights_PHW: Tensor) -> Tensor:
        """Return the scores after all refinement steps."""
        for _ in range(self.steps):
            flowed_QHW = torch.zeros_like(scores_QHW)
            for weight_HW, near_QHW in zip(weights_PHW, self._neighbours(scores_QHW), strict=True):
                flowed_QHW.addcmul_(weight_HW, near_QHW)  # m <- sum_p w_p m_p
            scores_QHW = flowed_QHW
        return scores_QHW

    def _neighbours(self, maps_CHW: Tensor) -> Iterator[Tensor]:
        """Yield for each neighbour the maps shifted by its offset; edges are repeated."""
        height, width = maps_CHW.shape[1:]
        for dilation in self.dilations:
            padded = F.pad(maps_CHW[None], (dilation,) * 4, mode="replicate")[0]
            for y, x in _OFFSETS:
                top, left = (1 + y) * dilation, (1 + x) * dilation
                yield padded[:, top : top + height, left : left + width]


@dataclass(frozen=True)
class Refinement:
    """The refinement of a batch's score maps.

    Attributes:
        pamr: steps and dilations.
        guides: for each image its pixels (3, h, w), enlarged bilinearly to the canvas.
    """

    pamr: Pamr
    guides: tuple[Tensor, ...]


class RefinedMap:
    """A score map after PAMR on its canvas, computed in blocks of rows.

    Args:
        scores: the score map.
        num_maps: Q.
        refinement: PAMR and the guides.
        index: number of the image in the batch.
        size_hw: size of the canvas.
        block_elements: refined scores, or weights, that are held at once.
    """

    def __init__(
        self,
        scores: RowsOfMaps,
        num_maps: int,
        refinement: Refinement,
        index: int,
        size_hw: tuple[int, int],
        block_elements: int = _BLOCK_ELEMENTS,
    ) -> None:
        self._scores = scores
        self._num_maps = num_maps
        self._pamr = refinement.pamr
        self._guide = MeanMap([refinement.guides[index].float()], size_hw)
        self._height = size_hw[0]
        planes = max(num_maps, len(_OFFSETS) * len(self._pamr.dilations))
        self._block_rows = max(block_elements // (planes * size_hw[1]), 1)
        self._chunk_elements = min(block_elements, _CHUNK_ELEMENTS)
        self._block = slice(0, 0)
        self._refined_QRW = torch.empty(0)

    def rows(self, band: slice, maps: slice = slice(None)) -> Tensor:
        """Return the rows of a band, float32 (Q, R, W); bands in order are the cheapest."""
        if band.start < self._block.start or band.stop > self._block.stop:
            stop = min(max(band.stop, band.start + self._block_rows), self._height)
            self._block = slice(band.start, stop)
            self._refined_QRW = torch.empty(0)  # frees the old block before the new one
            self._refined_QRW = self._refine(self._block)
        start = band.start - self._block.start
        # A copy, as the caller may change the rows in place.
        return self._refined_QRW[maps, start : start + band.stop - band.start].clone()

    def _refine(self, block: slice) -> Tensor:
        reach = self._pamr.reach_px
        region = slice(max(block.start - reach, 0), min(block.stop + reach, self._height))
        weights_PHW = self._pamr.weights(self._guide.rows(region))
        kept = slice(block.start - region.start, block.stop - region.start)
        per_chunk = max(self._chunk_elements // weights_PHW[0].numel(), 1)
        rows, width = block.stop - block.start, weights_PHW.shape[2]
        refined_QRW = weights_PHW.new_empty(self._num_maps, rows, width)
        for first in range(0, self._num_maps, per_chunk):
            maps = slice(first, first + per_chunk)
            chunk = self._scores.rows(region, maps)
            refined_QRW[maps] = self._pamr.flow(chunk, weights_PHW)[:, kept]
        return refined_QRW
