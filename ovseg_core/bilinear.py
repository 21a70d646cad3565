"""PyTorch's bilinear resize taken apart into its two axes, so that it can be done band by band.

Each axis is a sparse matrix with two entries a row, its taps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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
    """Return `values` with the axis `dim` brought to the taps' length; float32."""
    shape = [1] * values.ndim
    shape[dim] = -1
    low = values.index_select(dim, taps.low).float()
    return low.lerp_(values.index_select(dim, taps.high).float(), taps.weight.view(shape))
