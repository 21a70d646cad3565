"""Averages of overlapping windows, as one small matrix per axis over the patches of all windows.

A sliding-window method enlarges the scores of each window bilinearly, adds them up on the resized
image, divides by the number of windows at each pixel and resizes the result to the image. All of
this is linear and separable by axis (so is the number of windows). The patches of all windows, side
by side in row-major order, times one matrix per axis therefore give the same scores, for any band
of rows (docs/methods.md 1.3).

Shapes: Q maps, h w patches of all windows, S pixels of the resized image along an axis, P patches
of all windows along an axis, R rows of a band, H W pixels of the result.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ovseg_core.images.resize.bilinear import Rows, bilinear_taps

Span = tuple[int, int]
"""First pixel and the one after the last."""
_MAX_WEIGHTS = 1 << 31


@dataclass(frozen=True)
class AxisStitch:
    """The windows of an image along one axis.

    Attributes:
        spans: of each window; together they cover the axis.
        num_patches: patches of one window along the axis, spread evenly over it and its margins.
        margins: pixels of padding before and after each window, which are cropped again.
    """

    spans: tuple[Span, ...]
    num_patches: int
    margins: Span

    def __post_init__(self) -> None:
        """Check that the windows cover the axis.

        Raises:
            ValueError: they do not, or the matrix would have billions of weights.
        """
        reached = 0
        for start, end in self.spans:
            if not 0 <= start <= reached < end:
                raise ValueError(f"expected windows that cover an axis in order, got {self.spans}")
            reached = end
        num_patches = len(self.spans) * self.num_patches
        if min(self.margins) < 0 or not 0 < num_patches * reached < _MAX_WEIGHTS:
            raise ValueError(f"expected weights of patches, got {num_patches} on {reached} pixels")

    @property
    def side_px(self) -> int:
        """S."""
        return max(end for _, end in self.spans)

    @cached_property
    def matrix(self) -> Tensor:
        """Weight (S, P) of each patch at each pixel, float32; rows sum to 1."""
        matrix_SP = torch.zeros(self.side_px, len(self.spans) * self.num_patches)
        for index, (start, end) in enumerate(self.spans):
            padded_px = self.margins[0] + end - start + self.margins[1]
            enlarged = _resized(torch.eye(self.num_patches), padded_px)
            of_window = slice(index * self.num_patches, (index + 1) * self.num_patches)
            kept = slice(self.margins[0], self.margins[0] + end - start)
            matrix_SP[start:end, of_window] = enlarged[kept]
        # The weights of one window sum to 1 at a pixel: the total is the number of windows there.
        return matrix_SP / matrix_SP.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Stitch:
    """The average of an image's windows: weights of patches at pixels of the resized image."""

    rows: AxisStitch
    columns: AxisStitch


class StitchedMap:
    """The average of all windows, resized to an image, band by band.

    Args:
        level_Qhw: patches of all windows in row-major order: (Q, rows of windows x patches, columns
            of windows x patches).
        stitch: weights of the patches.
        size_hw: size of the result.
    """

    def __init__(self, level_Qhw: Tensor, stitch: Stitch, size_hw: tuple[int, int]) -> None:
        device = level_Qhw.device
        rows_HP = _resized(stitch.rows.matrix, size_hw[0])
        columns_WP = _resized(stitch.columns.matrix, size_hw[1])
        self._level_Qhw, self._columns_WP = level_Qhw, columns_WP
        self._rows_HP = rows_HP.to(device)

    @cached_property
    def _wide(self) -> Tensor:
        # Columns are resized once, for all bands.
        level_Qhw = self._level_Qhw.float()
        return level_Qhw @ self._columns_WP.to(level_Qhw.device).T

    def rows(self, band: Rows, maps: slice = slice(None)) -> Tensor:
        """Return a band of rows of all maps or some, float32 (Q, R, W)."""
        weights_RP = self._rows_HP[band]
        used = weights_RP.any(dim=0).nonzero()
        near = slice(int(used[0]), int(used[-1]) + 1)
        return weights_RP[:, near] @ self._wide[maps, near]

    def few_rows(self, band: Rows) -> Tensor:
        """Return the same as `rows`."""
        return self.rows(band)

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the maps where some rows and some columns cross, float64 (Q, rows, columns)."""
        level_Qhw = self._level_Qhw.double()
        rows_nP = self._rows_HP[rows.to(level_Qhw.device)].double()
        columns_mP = self._columns_WP[columns].to(level_Qhw)
        return rows_nP @ (level_Qhw @ columns_mP.T)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights of patches at the rows (H, P) and at the columns (W, P)."""
        return self._rows_HP.cpu(), self._columns_WP


def _resized(matrix_SP: Tensor, num_out: int) -> Tensor:
    """Resize the pixels of a matrix (S, P) bilinearly to `num_out`."""
    taps = bilinear_taps(len(matrix_SP), num_out)
    return torch.lerp(matrix_SP[taps.low], matrix_SP[taps.high], taps.weight[:, None])
