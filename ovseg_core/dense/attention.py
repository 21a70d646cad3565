"""Attentions that the training-free methods put into CLIP's last block.

A policy says what a token takes from the others' values. Shapes: B images, L tokens (class token
first), H heads, d head width, h w patches, N = h * w.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = Literal["qk", "qq", "kk", "vv"]


class AttentionPolicy(Protocol):
    """What a token takes from the others' values."""

    def __call__(self, q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        """Return the mixed values, shaped like `v_BHLd`."""
        ...


def identity(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
    """Every token keeps its own value (MaskCLIP)."""
    return v_BHLd


@dataclass(frozen=True)
class SoftmaxSum:
    """The sum of softmax(a b^T / sqrt d) over pairs (a, b), times the values.

    The attentions are added, not averaged: rows sum to the number of pairs.

    Attributes:
        pairs: `qk` alone is CLIP's own attention, `qq` ClearCLIP's, `qq` + `kk` SCLIP's, with
            `vv` CLIPtrase's.
    """

    pairs: tuple[Pair, ...]

    def __call__(self, q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        """Return the mixed values."""
        by_name = {"q": q_BHLd, "k": k_BHLd, "v": v_BHLd}
        mixed_BHLd = torch.zeros_like(v_BHLd)
        for left, right in self.pairs:
            mixed_BHLd = mixed_BHLd + F.scaled_dot_product_attention(
                by_name[left], by_name[right], v_BHLd
            )
        return mixed_BHLd


class Neighbourhood:
    """softmax(k k^T / sqrt d + G) times the values (NACLIP).

    Args:
        grid_hw: patches by (rows, columns).
        std_patches: standard deviation of the Gaussian G in patches.
        device: where the tokens are.
    """

    def __init__(self, grid_hw: tuple[int, int], std_patches: float, device: torch.device) -> None:
        """Compute G once."""
        self.bias_LL = gaussian_bias(grid_hw, std_patches).to(device)

    def __call__(self, q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        """Return the mixed values; the queries have no part in it."""
        bias = self.bias_LL.to(k_BHLd.dtype)
        return F.scaled_dot_product_attention(k_BHLd, k_BHLd, v_BHLd, attn_mask=bias)


@dataclass(frozen=True)
class SelfAdjusted:
    """Half attention by a given likeness of patches, half k-k attention (SC-CLIP).

    Attributes:
        bias_B1NN: the likeness before its softmax, the same for every head; minus infinity where
            two patches do not see each other.
    """

    bias_B1NN: Tensor

    def __call__(self, q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        """Return the mixed values; the queries have no part in it."""
        steered_BHLd = self.bias_B1NN.softmax(dim=-1) @ v_BHLd
        return (steered_BHLd + F.scaled_dot_product_attention(k_BHLd, k_BHLd, v_BHLd)) / 2


def gaussian_bias(grid_hw: tuple[int, int], std_patches: float) -> Tensor:
    """Return G (1 + N, 1 + N): exp(-|p - q|^2 / (2 std^2)) in patches; the class token's are 0."""
    # Gaussians are separable: a small matrix for each axis, multiplied by the outer product.
    rows, columns = (
        torch.exp(-((torch.arange(side)[:, None] - torch.arange(side)) ** 2) / (2 * std_patches**2))
        for side in grid_hw
    )
    return F.pad(torch.kron(rows, columns), (1, 0, 1, 0))
