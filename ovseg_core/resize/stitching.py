"""Window averages without the windows: where the patches of all windows lie, one matrix an axis.

A sliding-window method enlarges each window's scores bilinearly, adds them up on the resized image,
divides by the number of windows at a pixel and enlarges the result to the image. All of that is
linear and apart in rows and columns (so is the number of windows), so the patches of all windows,
side by side in scan order, times one small matrix an axis are the same scores, at any rows that
are asked for. Shapes: Q maps, S resized-image pixels, P patches of all windows along an axis, R
rows of one band.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_core.resize.bilinear import bilinear_taps

Span = tuple[int, int]


@dataclass(frozen=True)
class Stitch:
    """Where the patches of an image's windows lie.

    Attributes:
        rows_SP: weight of each row of patches at each pixel row of the resized image.
        columns_SP: the same for columns.
    """

    rows_SP: Tensor
    columns_SP: Tensor


class StitchedMap:
    """Patches of all windows averaged and enlarged to an image; made band by band.

    Args:
        level_Qhw: the windows' patches in scan order: (Q, rows of windows x patches, columns of
            windows x patches).
        stitch: where they lie.
        size_hw: where the average is enlarged (or reduced) to.
    """

    def __init__(self, level_Qhw: Tensor, stitch: Stitch, size_hw: tuple[int, int]) -> None:
        """Bring the columns to their number, once for all bands."""
        device = level_Qhw.device
        self._rows_HP = _resized(stitch.rows_SP, size_hw[0]).to(device)
        self._wide_QPW = level_Qhw.float() @ _resized(stitch.columns_SP, size_hw[1]).to(device).T

    def rows(self, band: slice, maps: slice = slice(None)) -> Tensor:
        """Return the rows of a band, of all maps or of some, float32 (Q, R, W)."""
        weights_RP = self._rows_HP[band]
        used = weights_RP.any(dim=0).nonzero()
        near = slice(int(used[0]), int(used[-1]) + 1)
        return weights_RP[:, near] @ self._wide_QPW[maps, near]


def stitch_axis(spans: Sequence[Span], num_patches: int, margins: Span) -> Tensor:
    """Return the matrix (S, P) of one axis.

    Args:
        spans: first pixel and the one after the last of each window; together they cover the axis.
        num_patches: patches of one window along the axis, spread evenly over it and its margins.
        margins: pixels of padding before and behind each window, which are cut off again.
    """
    side_px = max(end for _, end in spans)
    matrix_SP = torch.zeros(side_px, len(spans) * num_patches)
    for index, (start, end) in enumerate(spans):
        padded_px = margins[0] + end - start + margins[1]
        enlarged = _resized(torch.eye(num_patches), padded_px)
        of_window = slice(index * num_patches, (index + 1) * num_patches)
        matrix_SP[start:end, of_window] = enlarged[margins[0] : margins[0] + end - start]
    # Each window's weights sum to one at a pixel, so the total is the number of windows there.
    return matrix_SP / matrix_SP.sum(dim=1, keepdim=True)


def _resized(matrix_SP: Tensor, num_out: int) -> Tensor:
    """Return the matrix after a bilinear resize of its pixels to `num_out`."""
    taps = bilinear_taps(len(matrix_SP), num_out)
    return torch.lerp(matrix_SP[taps.low], matrix_SP[taps.high], taps.weight[:, None])
