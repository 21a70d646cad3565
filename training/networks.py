"""Forward passes of open_clip's and timm's transformers with bfloat16 matrix products.

The weights are the modules' own, in float32; linear layers and GELU are bfloat16, the residual
stream and norms float32. On a CPU with AMX this is twice as fast as the modules' forward passes.

Shapes: B images or texts, T tokens, N patches, C width, D joint width, H W pixels, h w patches.
"""

from __future__ import annotations

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, LAYERS, HEADS, PATCH, IMAGE_PX = 128, 4, 4, 8, 48
CLIP_MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
CLIP_STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)


def clip_config(vocab_size: int, context: int) -> dict:
    """Return open_clip's `model_cfg` of the embedded CLIP."""
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
    """Apply a linear layer with float32 weights to bfloat16 input, in bfloat16."""
    return F.linear(x, weight.bfloat16(), None if bias is None else bias.bfloat16())


def attention(
    x: Tensor,
    heads: int,
    qkv: tuple[Tensor, Tensor],
    out: tuple[Tensor, Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    """Return the self-attention (B, T, C) of bfloat16 tokens.

    Args:
        x: the tokens after their norm.
        heads: number of heads.
        qkv: weight (3 C, C) and bias of the fused projection.
        out: weight (C, C) and bias of the output projection.
        mask: (T, T), added to the logits.
    """
    batch, tokens, width = x.shape
    depth = width // heads
    fused = linear(x, *qkv).view(batch, tokens, 3, heads, depth)
    q, k, v = fused.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, tokens, depth).unbind(0)
    logits = torch.bmm(q * depth**-0.5, k.transpose(1, 2)).float()
    if mask is not None:
        logits = logits + mask
    values = (
        torch.bmm(logits.softmax(-1).to(v.dtype), v)
        .view(batch, heads, tokens, depth)
        .transpose(1, 2)
    )
    return linear(values.reshape(batch, tokens, width), *out)


def block(x: Tensor, blk: nn.Module, mask: Tensor | None = None) -> Tensor:
    """Run a residual block of open_clip on (B, T, C), float32."""
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
    """Return the MLP branch of an open_clip block, without the residual."""
    hidden = linear(blk.ln_2(x).bfloat16(), blk.mlp.c_fc.weight, blk.mlp.c_fc.bias)
    return linear(F.gelu(hidden), blk.mlp.c_proj.weight, blk.mlp.c_proj.bias)


def patchify(images: Tensor, patch: int) -> Tensor:
    """Return the pixels of patches (B, N, 3 * patch * patch), in a convolution's order."""
    batch, channels, height, width = images.shape
    cells = images.view(batch, channels, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def grow_positions(table: Tensor, side: int, grid: tuple[int, int], offset: float = 0.0) -> Tensor:
    """Interpolate position embeddings to another grid, bicubic: (side * side, C) to (h * w, C).

    Args:
        table: embeddings of a square grid.
        side: of that square.
        grid: (h, w) of the result.
        offset: 0: interpolate to the size (MaskCLIP); 0.1: by the factor (h + 0.1) / side (DINO,
            FOUND).
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
    """Return pooled and dense features of the image encoder.

    Args:
        visual: open_clip's VisionTransformer.
        images: (B, 3, H, W) in [0, 1], sides multiples of the patch.

    Returns:
        pooled (B, D): the image embedding, not normalised;
        dense (B, N, D): the last block's value path with residual and MLP;
        bare (B, N, D): the value path alone.
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
    """Return the text embeddings (B, D), not normalised, of tokens (B, T), int64."""
    x = clip.token_embedding(tokens) + clip.positional_embedding
    for blk in clip.transformer.resblocks:
        x = block(x, blk, clip.attn_mask)
    x = clip.ln_final(x[torch.arange(len(x)), tokens.argmax(1)])
    return x @ clip.text_projection
