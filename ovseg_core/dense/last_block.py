"""CLIP's last block by hand, with the attention exchanged.

Methods differ in what they put in place of softmax(q k): a policy of `attention`. Shapes: B images,
L tokens (class token first), C trunk width, H heads, d head width, D joint width, h w patches.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.dense.attention import AttentionPolicy


def dense_features(
    clip: Clip, state: TrunkFeatures, policy: AttentionPolicy, residual: bool = True
) -> Tensor:
    """Return the patches in the joint space (B, D, h, w), not normalised.

    Args:
        clip: supplies the last block's weights.
        state: the tower before its last block.
        policy: the attention.
        residual: keep the block's skip connections and its MLP; without them the attention's
            output alone is projected.
    """
    tokens_BLC = last_block(clip, state.tokens_BLC, policy, residual)
    patches_BND = clip.project(tokens_BLC[:, 1:])
    return patches_BND.transpose(1, 2).unflatten(2, state.grid_hw)


def last_keys(clip: Clip, state: TrunkFeatures) -> Tensor:
    """Return the last block's keys of the patches (B, C, h, w), after its output projection.

    A key that went through the projection of values is what MaskCLIP's published code stores.
    """
    block: Any = clip.visual.transformer.resblocks[-1]
    attention = block.attn
    weight, bias = (part.chunk(3)[1] for part in (attention.in_proj_weight, attention.in_proj_bias))
    keys_BLC = attention.out_proj(F.linear(block.ln_1(state.tokens_BLC), weight, bias))
    return keys_BLC[:, 1:].transpose(1, 2).unflatten(2, state.grid_hw)


def last_block(clip: Clip, x_BLC: Tensor, policy: AttentionPolicy, residual: bool) -> Tensor:
    """Return the tokens after the last block (B, L, C), before the final norm."""
    return run_block(clip.visual.transformer.resblocks[-1], x_BLC, policy, residual)


def run_block(block: Any, x_BLC: Tensor, policy: AttentionPolicy, residual: bool) -> Tensor:
    """Return the tokens after any block of the tower (B, L, C); see `dense_features`."""
    out_BLC = block.attn.out_proj(policy(*qkv(block, x_BLC)).transpose(1, 2).flatten(2))
    if not residual:
        return out_BLC
    z_BLC = x_BLC + block.ls_1(out_BLC)
    return z_BLC + block.ls_2(block.mlp(block.ln_2(z_BLC)))


def qkv(block: Any, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values (B, H, L, d) of a block on its input tokens."""
    attention = block.attn
    qkv_BLC = F.linear(block.ln_1(x_BLC), attention.in_proj_weight, attention.in_proj_bias)
    q_BHLd, k_BHLd, v_BHLd = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in qkv_BLC.chunk(3, -1)
    )
    return q_BHLd, k_BHLd, v_BHLd
