"""CLIP's last block by hand, with the attention that a method puts in place of softmax(q k^T).

Equations: docs/methods.md 1.6 and 7. What goes in and out is float32 and on the tokens' device; the
block is computed in the job's precision.

Shapes: B images, L = 1 + N tokens (class token first), C trunk width, H heads, d head width, D
joint width, h w patches, N = h * w.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures, qkv

Pair = Literal["qk", "qq", "kk", "vv"]


class AttentionPolicy(Protocol):
    """How tokens attend to each other in the last block."""

    def __call__(self, q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        """Return the values after attention, shaped like `v_BHLd`."""
        ...


def identity(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
    """Return the values as they are: every token attends to itself alone (MaskCLIP)."""
    return v_BHLd


@dataclass(frozen=True)
class SoftmaxSum:
    """The sum of softmax(a b^T / sqrt d) over pairs (a, b), times the values.

    The attentions are added, not averaged: rows sum to the number of pairs.

    Attributes:
        pairs: `qk` alone is CLIP's own attention, `qq` ClearCLIP's, `qq` + `kk` SCLIP's, with
            `vv` CLIPtrase's.
        limit_B1LL: which keys each token attends to, bool; None: to all.
    """

    pairs: tuple[Pair, ...]
    limit_B1LL: Tensor | None = None

    def __call__(self, q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        """Return the values after attention."""
        by_name = {"q": q_BHLd, "k": k_BHLd, "v": v_BHLd}
        out_BHLd = torch.zeros_like(v_BHLd)
        for left, right in self.pairs:
            out_BHLd = out_BHLd + F.scaled_dot_product_attention(
                by_name[left], by_name[right], v_BHLd, attn_mask=self.limit_B1LL
            )
        return out_BHLd


class Neighbourhood:
    """softmax(k k^T / sqrt d + G) times the values (NACLIP; docs/methods.md 7).

    Args:
        grid_hw: rows and columns of patches.
        sigma_patches: standard deviation of the Gaussian G in patches.
        device: where the tokens are.
        limit_B1LL: which keys each token attends to, bool; None: to all.
    """

    def __init__(
        self,
        grid_hw: tuple[int, int],
        sigma_patches: float,
        device: torch.device,
        limit_B1LL: Tensor | None = None,
    ) -> None:
        self.bias = gaussian_bias(grid_hw, sigma_patches).to(device)
        if limit_B1LL is not None:
            self.bias = self.bias.masked_fill(~limit_B1LL, -torch.inf)

    def __call__(self, q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        """Return the values after attention; the queries are not used."""
        bias = self.bias.to(k_BHLd.dtype)
        return F.scaled_dot_product_attention(k_BHLd, k_BHLd, v_BHLd, attn_mask=bias)


@dataclass(frozen=True)
class SelfAdjusted:
    """The mean of attention by a given similarity of patches and of k-k attention (SC-CLIP).

    Attributes:
        bias_B1NN: the similarity before its softmax, the same for every head; minus infinity where
            two patches do not attend to each other.
    """

    bias_B1NN: Tensor

    def __call__(self, q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
        """Return the values after attention; the queries are not used."""
        by_similarity_BHLd = self.bias_B1NN.softmax(dim=-1) @ v_BHLd
        by_keys_BHLd = F.scaled_dot_product_attention(k_BHLd, k_BHLd, v_BHLd)
        return (by_similarity_BHLd + by_keys_BHLd) / 2


def same_region(regions_Bhw: Tensor) -> Tensor:
    """Return which keys each token attends to if patches stay within their region.

    CorrCLIP (arXiv 2411.10086), with regions of SAM. That a patch of no region
    attends to all tokens, and the class token to all, is ours.

    Args:
        regions_Bhw: number of each patch's region; 0: none.

    Returns:
        bool (B, 1, L, L), class token first.
    """
    regions_BN = regions_Bhw.flatten(1)
    same_BNN = regions_BN[:, :, None] == regions_BN[:, None]
    free_BN = regions_BN == 0
    allowed_BLL = F.pad(same_BNN | free_BN[:, :, None], (1, 0, 1, 0))
    allowed_BLL[:, 0] = True
    allowed_BLL[:, 1:, 0] = free_BN
    return allowed_BLL[:, None]


def gaussian_bias(grid_hw: tuple[int, int], sigma_patches: float) -> Tensor:
    """Return G (1 + N, 1 + N): exp(-|p - q|^2 / (2 sigma^2)); 0 for the class token."""
    # Gaussians are separable: a small matrix for each axis, multiplied by the outer product.
    rows, columns = (
        torch.exp(
            -((torch.arange(side)[:, None] - torch.arange(side)) ** 2) / (2 * sigma_patches**2)
        )
        for side in grid_hw
    )
    return F.pad(torch.kron(rows, columns), (1, 0, 1, 0))


def dense_patches(
    clip: Clip, trunk: TrunkFeatures, policy: AttentionPolicy, residual: bool = True
) -> Tensor:
    """Return the patches in the joint space (B, D, h, w), not normalised to unit length.

    Args:
        clip: supplies the last block's weights.
        trunk: CLIP's image encoder before its last block.
        policy: the attention.
        residual: keep the block's skip connections and its MLP; without them the attention's
            output alone is projected.
    """
    tokens_BLC = run_last_block(clip, trunk.tokens_BLC, policy, residual)
    patches_BND = clip.project(tokens_BLC[:, 1:])
    return patches_BND.transpose(1, 2).unflatten(2, trunk.grid_hw)


def run_last_block(clip: Clip, x_BLC: Tensor, policy: AttentionPolicy, residual: bool) -> Tensor:
    """Return the tokens after the last block (B, L, C), before the final norm.

    Takes the arguments of `dense_patches`; `x_BLC` are the block's input tokens.
    """
    return clip.compute.run(
        _last_block, clip.visual.transformer.resblocks[-1], x_BLC, policy, residual
    )


def _last_block(block: Any, x_BLC: Tensor, policy: AttentionPolicy, residual: bool) -> Tensor:
    out_BLC = block.attn.out_proj(policy(*qkv(block, x_BLC)).transpose(1, 2).flatten(2))
    if not residual:
        return out_BLC
    z_BLC = x_BLC + block.ls_1(out_BLC)
    return z_BLC + block.ls_2(block.mlp(block.ln_2(z_BLC)))
