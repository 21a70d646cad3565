"""open_clip's and timm's towers, run by hand in bfloat16 matrix products.

The weights stay those of the ordinary modules in float32. On a CPU with AMX this is twice as fast
as the modules themselves: bfloat16 linear layers and GELU, float32 residual stream and norms.
"""

from __future__ import annotations

import math

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.muon import StackedMuon

WIDTH, LAYERS, HEADS, PATCH, IMAGE_PX = 128, 4, 4, 8, 48
CLIP_MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
CLIP_STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)


def clip_config(vocab_size: int, context: int) -> dict:
    """open_clip's ``model_cfg`` of the embedded CLIP."""
    return {
        "embed_dim": 96,
        "vision_cfg": {
            "image_size": IMAGE_PX,
            "layers": LAYERS,
            "width": WIDTH,
            "head_width": WIDTH // HEADS,
            "patch_size": PATCH,
            "pool_type": "avg",
            "pos_embed_type": "sin_cos_2d",
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": vocab_size,
            "width": 64,
            "heads": 4,
            "layers": 2,
        },
    }


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A bfloat16 linear layer on float32 weights."""
    return F.linear(x, weight.bfloat16(), None if bias is None else bias.bfloat16())


def attention(
    x: Tensor,
    heads: int,
    of_qkv: tuple[Tensor, Tensor],
    of_out: tuple[Tensor, Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    """Self-attention of (B, T, C) bfloat16 tokens.

    Args:
        x: the tokens after their norm.
        heads: how many.
        of_qkv: weight (3 C, C) and bias of the fused projection.
        of_out: weight (C, C) and bias of the output projection.
        mask: (T, T), added to the logits.
    """
    batch, tokens, width = x.shape
    depth = width // heads
    qkv = linear(x, *of_qkv).view(batch, tokens, 3, heads, depth)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, tokens, depth).unbind(0)
    logits = torch.bmm(q * depth**-0.5, k.transpose(1, 2)).float()
    if mask is not None:
        logits = logits + mask
    out = (
        torch.bmm(logits.softmax(-1).to(v.dtype), v)
        .view(batch, heads, tokens, depth)
        .transpose(1, 2)
    )
    return linear(out.reshape(batch, tokens, width), *of_out)


def block(x: Tensor, blk: nn.Module, mask: Tensor | None = None) -> Tensor:
    """One residual block of open_clip on (B, T, C) float32."""
    att = blk.attn
    x = x + attention(
        blk.ln_1(x).bfloat16(),
        att.num_heads,
        (att.in_proj_weight, att.in_proj_bias),
        (att.out_proj.weight, att.out_proj.bias),
        mask,
    )
    return x + mlp(x, blk)


def mlp(x: Tensor, blk: nn.Module) -> Tensor:
    """The MLP branch of an open_clip block."""
    hidden = linear(blk.ln_2(x).bfloat16(), blk.mlp.c_fc.weight, blk.mlp.c_fc.bias)
    return linear(F.gelu(hidden), blk.mlp.c_proj.weight, blk.mlp.c_proj.bias)


def patchify(images: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3 * patch * patch), the order of a convolution's weight."""
    batch, channels, height, width = images.shape
    cells = images.view(batch, channels, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def grow_positions(table: Tensor, side: int, grid: tuple[int, int], offset: float = 0.0) -> Tensor:
    """Read a position table at another grid, bicubic: (side * side, C) -> (h * w, C).

    Args:
        table: positions of a square grid.
        side: of that square.
        grid: (h, w) wanted.
        offset: 0 interpolates to the size (MaskCLIP's rule), 0.1 by the scale factor of
            (h + 0.1) / side (DINO's and FOUND's rule).
    """
    if grid == (side, side):
        return table
    square = table.view(1, side, side, -1).permute(0, 3, 1, 2)
    if offset:
        factor = ((grid[0] + offset) / side, (grid[1] + offset) / side)
        grown = F.interpolate(square, scale_factor=factor, mode="bicubic", align_corners=False)
    else:
        grown = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return grown.flatten(2)[0].T


def vision_features(visual: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The image tower with both read-outs.

    Args:
        visual: open_clip's VisionTransformer.
        images: (B, 3, H, W) in [0, 1], sides multiples of the patch.

    Returns:
        pooled (B, D), the CLIP embedding before normalising;
        dense (B, N, D), the value path with residual and MLP;
        bare (B, N, D), the value path alone.
    """
    grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
    cells = patchify((images - CLIP_MEAN) / CLIP_STD, PATCH).bfloat16()
    x = linear(cells, visual.conv1.weight.view(WIDTH, -1), None).float()
    head = visual.class_embedding.expand(len(x), 1, -1)
    table = visual.positional_embedding
    positions = torch.cat([table[:1], grow_positions(table[1:], visual.grid_size[0], grid)])
    x = visual.ln_pre(torch.cat([head, x], dim=1) + positions)
    for blk in visual.transformer.resblocks[:-1]:
        x = block(x, blk)
    last = visual.transformer.resblocks[-1]
    pooled = visual.ln_post(block(x, last))[:, 1:].mean(1) @ visual.proj
    patches = x[:, 1:]
    value = linear(
        last.ln_1(patches).bfloat16(),
        last.attn.in_proj_weight[2 * WIDTH :],
        last.attn.in_proj_bias[2 * WIDTH :],
    )
    out = linear(value, last.attn.out_proj.weight, last.attn.out_proj.bias).float()
    z = patches + out
    z = z + mlp(z, last)
    return pooled, visual.ln_post(z) @ visual.proj, visual.ln_post(out) @ visual.proj


def text_features(clip: nn.Module, tokens: Tensor) -> Tensor:
    """The text tower, (B, L) int64 -> (B, D), before normalising."""
    x = clip.token_embedding(tokens) + clip.positional_embedding
    for blk in clip.transformer.resblocks:
        x = block(x, blk, clip.attn_mask)
    x = clip.ln_final(x[torch.arange(len(x)), tokens.argmax(1)])
    return x @ clip.text_projection


def optimisers(matrices: list[nn.Module], everything: list[nn.Module], rate: float) -> list:
    """Muon for the 2-D weights of ``matrices``, AdamW for the rest of ``everything``."""
    muon = [p for part in matrices for p in part.parameters() if p.ndim == 2]
    taken = {id(p) for p in muon}
    rest = [p for part in everything for p in part.parameters() if id(p) not in taken]
    rest = [p for p in rest if p.requires_grad]
    return [
        StackedMuon(muon, lr=rate),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def rate_factor(step: int, steps: int, warm: int = 100, hold: float = 0.6) -> float:
    """Warm up, hold, then fall along a cosine to zero."""
    if step < warm:
        return (step + 1) / warm
    if step < hold * steps:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - hold * steps) / ((1 - hold) * steps)))
