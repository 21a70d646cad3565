"""Averages of overlapping windows, as one small matrix per axis over the patches of all windows.

A sliding-window method enlarges the scores of each window bilinearly, adds them up on the resized
image, divides by the number of windows at each pixel and resizes the result to the image. All of
this is linear and separable by axis (so is the number of windows). The patches of all windows, side
by side in row-major order, times one matrix per axis therefore give the same scores, for any band
of rows (docs/methods.md 1.3).

Shapes: Q maps, h w patches of all windows, S pixels of the resized image along an axis, P patches
of all windows along an axis, R rows of a band, H W pixels of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ovseg_core.images.resize.bilinear import Rows, bilinear_taps

Span = tuple[int, int]
"""First pixel and the one after the last."""


@dataclass(frozen=True)
class Stitch:
    """The average of an image's windows, as weights of patches at pixels of the resized image.

    Attributes:
        rows_SP: weight of each row of patches at each row of pixels, float32; rows sum to 1.
        columns_SP: the same for columns.
    """

    rows_SP: Tensor
    columns_SP: Tensor


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
        rows_HP = _resized(stitch.rows_SP, size_hw[0])
        columns_WP = _resized(stitch.columns_SP, size_hw[1])
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


def stitch_axis(spans: Sequence[Span], num_patches: int, margins: Span) -> Tensor:
    """Return the matrix (S, P) of one axis.

    Args:
        spans: of each window; together they cover the axis.
        num_patches: patches of one window along the axis, spread evenly over it and its margins.
        margins: pixels of padding before and after each window, which are cropped again.
    """
    side_px = max(end for _, end in spans)
    matrix_SP = torch.zeros(side_px, len(spans) * num_patches)
    for index, (start, end) in enumerate(spans):
        padded_px = margins[0] + end - start + margins[1]
        enlarged = _resized(torch.eye(num_patches), padded_px)
        of_window = slice(index * num_patches, (index + 1) * num_patches)
        matrix_SP[start:end, of_window] = enlarged[margins[0] : margins[0] + end - start]
    # The weights of one window sum to 1 at a pixel, so the total is the number of windows there.
    return matrix_SP / matrix_SP.sum(dim=1, keepdim=True)


def _resized(matrix_SP: Tensor, num_out: int) -> Tensor:
    """Resize the pixels of a matrix (S, P) bilinearly to `num_out`."""
    taps = bilinear_taps(len(matrix_SP), num_out)
    return torch.lerp(matrix_SP[taps.low], matrix_SP[taps.high], taps.weight[:, None])
