"""Two ways between a method's canvas and other grids: bilinear, and nearest to the image's size.

Both are separable, so each is described once per axis. A bilinear axis is a matrix with two
entries a row (its taps); a nearest axis is a source index for every target pixel, or, read the
other way, how many target pixels each source pixel becomes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SizeHW = tuple[int, int]


@dataclass(frozen=True)
class Taps:
    """One axis of a bilinear resize: `out[i] = lerp(x[low[i]], x[high[i]], weight[i])`."""

    low: Tensor
    high: Tensor
    weight: Tensor

    def rows(self, start: int, stop: int) -> "Taps":
        """Return the taps of the target pixels from `start` up to `stop`."""
        return Taps(self.low[start:stop], self.high[start:stop], self.weight[start:stop])


def bilinear_taps(num_in: int, num_out: int, device: torch.device) -> Taps:
    """Return the taps of `F.interpolate(mode="bilinear", align_corners=False)` along one axis.

    The source position `(i + 0.5) * in / out - 0.5`, not below 0, is rounded to float32 as
    PyTorch's kernel does.
    """
    scale = torch.tensor(num_in, dtype=torch.float32) / num_out
    position = (scale * (torch.arange(num_out, dtype=torch.float32) + 0.5) - 0.5).clamp_(min=0)
    low = position.to(torch.int64).clamp_(max=num_in - 1)
    high = (low + 1).clamp_(max=num_in - 1)
    return Taps(low.to(device), high.to(device), (position - low).to(device))


def apply_taps(values: Tensor, taps: Taps, dim: int) -> Tensor:
    """Return `values` with the axis `dim` enlarged (or reduced) to the taps' length; float32."""
    shape = [1] * values.ndim
    shape[dim] = -1
    weight = taps.weight.view(shape)
    low = values.index_select(dim, taps.low).float()
    return low.lerp_(values.index_select(dim, taps.high).float(), weight)


def nearest_source(num_in: int, num_out: int) -> NDArray[np.int64]:
    """Return the source pixel `floor(i * in / out)` of each target pixel i, in exact integers."""
    return np.arange(num_out, dtype=np.int64) * num_in // num_out


def nearest_counts(num_in: int, num_out: int) -> NDArray[np.int64]:
    """Return how many target pixels each source pixel becomes; 0 where a reduction skips it."""
    return np.bincount(nearest_source(num_in, num_out), minlength=num_in)


def to_size(label_map: NDArray[np.generic], size_hw: SizeHW) -> NDArray[np.generic]:
    """Return the (Hc, Wc) map at another size by nearest, the rule of cv2 and torch."""
    rows = nearest_source(label_map.shape[0], size_hw[0])
    columns = nearest_source(label_map.shape[1], size_hw[1])
    return label_map[rows][:, columns]
