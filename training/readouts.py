"""Short versions of CLIP-DIY, MaskCLIP and FOUND, to measure the models during their training.

The exact methods are the product's (`training/quality.py` measures with them).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import Tensor, nn

from training.networks import CLIP_MEAN, CLIP_STD, IMAGE_PX, grow_positions

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def _tensor(image: np.ndarray) -> Tensor:
    """Return an image (H, W, 3), uint8, as (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float() / 255.0


@torch.no_grad()
def text_matrix(
    clip: nn.Module, tokenizer: SimpleTokenizer, names: list[str], templates: tuple[str, ...]
) -> Tensor:
    """Return a unit row per name (Q, D), the mean over the templates."""
    rows = []
    for template in templates:
        tokens = tokenizer([template.format(name) for name in names])
        rows.append(clip.encode_text(tokens, normalize=True))
    return F.normalize(torch.stack(rows).mean(0), dim=-1)


@torch.no_grad()
def keys(vit: nn.Module, image: Tensor) -> Tensor:
    """Return the keys of the last block as FOUND takes them (1, C, h, w).

    Args:
        vit: timm's model.
        image: (1, 3, H, W) in [0, 1]; normalised, then padded with zeros at right and bottom.
    """
    patch = vit.patch_embed.patch_size[0]
    x = (image - IMAGENET_MEAN) / IMAGENET_STD
    x = F.pad(x, (0, -x.shape[3] % patch, 0, -x.shape[2] % patch))
    tokens = vit.patch_embed.proj(x)
    height, width = tokens.shape[2:]
    table = vit.pos_embed
    side = round((table.shape[1] - 1) ** 0.5)
    positions = table[:, 1:]
    if (height, width) != (side, side):
        square = positions.view(1, side, side, -1).permute(0, 3, 1, 2)
        factor = ((height + 0.1) / side, (width + 0.1) / side)
        grown = F.interpolate(square, scale_factor=factor, mode="bicubic", align_corners=False)
        positions = grown.flatten(2).transpose(1, 2)
    tokens = torch.cat(
        [vit.cls_token + table[:, :1], tokens.flatten(2).transpose(1, 2) + positions], dim=1
    )
    for blk in vit.blocks[:-1]:
        tokens = blk(tokens)
    last = vit.blocks[-1]
    qkv = last.attn.qkv(last.norm1(tokens))[0, 1:]
    key = qkv[:, qkv.shape[1] // 3 : 2 * qkv.shape[1] // 3]
    return key.T.reshape(1, -1, height, width)


@torch.no_grad()
def objectness(vit: nn.Module, head: dict[str, Tensor], image: np.ndarray) -> Tensor:
    """Return the objectness (H, W) in [0, 1]."""
    picture = _tensor(image)
    logits = F.conv2d(keys(vit, picture), head["decoder.weight"], head["decoder.bias"])
    patch = vit.patch_embed.patch_size[0]
    full = F.interpolate(logits, scale_factor=patch, mode="bilinear", align_corners=False)
    return torch.sigmoid(full[0, 0, : image.shape[0], : image.shape[1]])


@torch.no_grad()
def clip_diy(clip: nn.Module, image: np.ndarray, text: Tensor, fore: Tensor | None) -> Tensor:
    """Return the label map (H, W) of CLIP-DIY; row 0 of `text` is the background.

    Args:
        clip: open_clip's model.
        image: (H, W, 3) uint8.
        text: (K, D) unit rows.
        fore: objectness (H, W); None: plain argmax.
    """
    height, width = image.shape[:2]
    squashed = Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR)
    crops = [
        squashed.crop((x, y, x + p, y + p)).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
        for p in (256, 128, 64)
        for y in range(0, 256 - p + 1, p // 2)
        for x in range(0, 256 - p + 1, p // 2)
    ]
    batch = torch.from_numpy(np.stack([np.asarray(c) for c in crops])).permute(0, 3, 1, 2) / 255.0
    cosines = clip.encode_image((batch - CLIP_MEAN) / CLIP_STD, normalize=True) @ text.T
    total, start = torch.zeros(1, len(text), 256, 256), 0
    for side in (1, 3, 7):
        part = cosines[start : start + side * side].T.reshape(1, -1, side, side)
        total += F.interpolate(part, size=(256, 256), mode="bilinear", align_corners=False) / 3
        start += side * side
    if fore is not None:
        weight = F.interpolate(fore[None, None], size=(256, 256), mode="bilinear")
        total = torch.cat([total[:, :1] * (1 - weight), total[:, 1:] * weight], dim=1)
    labels = total.argmax(1, keepdim=True).float()
    return F.interpolate(labels, size=(height, width), mode="nearest")[0, 0].long()


@torch.no_grad()
def dense_features(clip: nn.Module, image: np.ndarray) -> Tensor:
    """Return unit features (D, h, w) of the value path with residual and MLP.

    The sides of the image must be multiples of the patch.
    """
    visual = clip.visual
    x = visual.conv1((_tensor(image) - CLIP_MEAN) / CLIP_STD)
    height, width = x.shape[2:]
    table = visual.positional_embedding
    positions = grow_positions(table[1:], visual.grid_size[0], (height, width))
    x = torch.cat([visual.class_embedding[None, None], x.flatten(2).transpose(1, 2)], dim=1)
    x = visual.ln_pre(x + torch.cat([table[:1], positions]))
    for blk in visual.transformer.resblocks[:-1]:
        x = blk(x)
    last = visual.transformer.resblocks[-1]
    size = x.shape[2]
    value = F.linear(
        last.ln_1(x), last.attn.in_proj_weight[2 * size :], last.attn.in_proj_bias[2 * size :]
    )
    z = last.attn.out_proj(value) + x
    z = z + last.mlp(last.ln_2(z))
    features = F.normalize((visual.ln_post(z) @ visual.proj)[0, 1:], dim=-1)
    return features.T.reshape(-1, height, width)


@torch.no_grad()
def maskclip(clip: nn.Module, image: np.ndarray, text: Tensor, fore: Tensor | None) -> Tensor:
    """Return the label map (H, W) of the value path: background where `fore` <= 0.5."""
    scores = torch.einsum("dhw,qd->qhw", dense_features(clip, image), text)[None]
    scores = F.interpolate(scores, size=image.shape[:2], mode="bilinear", align_corners=False)[0]
    if fore is None:
        return scores.argmax(0)
    return torch.where(fore > 0.5, scores[1:].argmax(0) + 1, torch.zeros(()).long())
