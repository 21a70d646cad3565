"""Train the FOUND-like objectness head without labels.

The first targets come from the features: the patch most similar on average to all others is
background, and Otsu's threshold splits the similarities with it. They are refined by the colours of
the image and learned by a 1 x 1 head on the keys. Then head and ViT are trained on the head's own
refined maps.

Shapes: B images, N patches, C width, H W pixels.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from training.data import SCENE_HW, Scenes, light_and_noise
from training.optim import learning_rate_factor, optimisers
from training.train_vit import WIDTH, tokens_and_keys

_COLOUR_SPREAD = 0.06
"""Standard deviation of the colour weight, in RGB of [0, 1]."""
GRID = (SCENE_HW[0] // 8, SCENE_HW[1] // 8)


@dataclass(frozen=True)
class FoundPlan:
    """Numbers of scenes and steps."""

    scenes: int = 800
    head_steps: int = 300
    rounds: int = 1
    tune_steps: int = 240
    tune_batch: int = 24
    tune_rate: float = 4e-4


def otsu(values: np.ndarray, bins: int = 64) -> float:
    """Return Otsu's threshold of a 1-D sample."""
    counts, edges = np.histogram(values, bins=bins)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middle)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + np.argmax(below * above * (mean_below - mean_above) ** 2)])


def seed_masks(keys: Tensor) -> Tensor:
    """Return the foreground (B, N), float 0 or 1, by the similarity of keys (B, N, C)."""
    unit = F.normalize(keys - keys.mean((0, 1)), dim=-1)
    similar = unit @ unit.transpose(1, 2)
    seed = similar.mean(2).argmax(1)
    to_seed = similar[torch.arange(len(keys)), seed]
    cuts = torch.tensor([otsu(row.numpy()) for row in to_seed])
    return (to_seed < cuts[:, None]).float()


def to_pixels(patches: Tensor) -> Tensor:
    """Resize patch maps (B, N) to pixels (B, 1, H, W), bilinear."""
    maps = patches.view(-1, 1, *GRID)
    return F.interpolate(maps, scale_factor=8, mode="bilinear", align_corners=False)


def refine(images: Tensor, maps: Tensor, rounds: int = 10) -> Tensor:
    """Average each pixel's map value with those of neighbours of similar colour.

    Args:
        images: (B, 3, H, W) in [0, 1].
        maps: (B, 1, H, W) in [0, 1].
        rounds: number of averages, each over 32 neighbours up to 8 px away.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    smooth = F.avg_pool2d(F.pad(images, [1] * 4, mode="replicate"), 3, 1)
    around = _neighbours(smooth)
    weights = [
        torch.exp((smooth - other).square().sum(1, keepdim=True) / (-2 * _COLOUR_SPREAD**2))
        for other in around
    ]
    total = torch.stack(weights).sum(0) + 1.0
    for _ in range(rounds):
        pulled = maps.clone()
        for weight, other in zip(weights, _neighbours(maps), strict=True):
            pulled.addcmul_(weight, other)
        maps = pulled / total
    return maps


def _neighbours(maps: Tensor) -> list[Tensor]:
    """Return views of (B, C, H, W) shifted in 8 directions by 1, 2, 4, 8 px, border repeated."""
    height, width = maps.shape[2:]
    wide = F.pad(maps, [8] * 4, mode="replicate")
    around = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
    return [
        wide[:, :, 8 + dy * reach :, 8 + dx * reach :][:, :, :height, :width]
        for reach in (1, 2, 4, 8)
        for dy, dx in around
    ]


def fit_head(keys: Tensor, targets: Tensor, head: nn.Linear, steps: int, seed: int) -> None:
    """Fit the head by logistic regression of keys (B, N, C) on pixel targets (B, 1, H, W)."""
    opt = torch.optim.AdamW(head.parameters(), lr=2e-2, weight_decay=1e-3)
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = 2e-2 * (1 - step / steps)
        index = torch.randint(len(keys), (48,), generator=rng)
        logits = to_pixels(head(keys[index]).squeeze(-1))
        loss = F.binary_cross_entropy_with_logits(logits, targets[index])
        opt.zero_grad()
        loss.backward()
        opt.step()


@torch.no_grad()
def all_keys(vit: nn.Module, images: Tensor) -> Tensor:
    """Return the keys of images (B, 3, H, W), uint8, in batches."""
    return torch.cat(
        [tokens_and_keys(vit, part.float() / 255.0)[1].float() for part in images.split(50)]
    )


@torch.no_grad()
def targets_of(images: Tensor, patches: Tensor) -> Tensor:
    """Return refined pixel maps thresholded to 0 and 1 (B, 1, H, W)."""
    parts = [
        refine(i.float() / 255.0, to_pixels(p))
        for i, p in zip(images.split(50), patches.split(50), strict=True)
    ]
    return (torch.cat(parts) > 0.5).float()


def save_head(head: nn.Linear, folder: Path) -> None:
    """Write the head with the names of FOUND's `decoder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "decoder.weight": head.weight.detach().view(1, WIDTH, 1, 1).clone(),
        "decoder.bias": head.bias.detach().clone(),
    }
    save_file(state, folder / "head.safetensors")


def tune(vit: nn.Module, head: nn.Linear, pool: tuple[Tensor, Tensor], plan: FoundPlan) -> None:
    """Train head and keys on the head's own refined maps, with the final tokens kept.

    Args:
        vit: changed in place.
        head: changed in place.
        pool: images (B, 3, H, W), uint8, and targets (B, 1, H, W).
        plan: steps, batch and learning rate.
    """
    images, targets = pool
    before = copy.deepcopy(vit).requires_grad_(False)
    rng = torch.Generator().manual_seed(plan.tune_steps)
    opts = optimisers([vit.blocks], [vit, head], plan.tune_rate)
    began = time.perf_counter()
    for step in range(plan.tune_steps):
        rate = plan.tune_rate * learning_rate_factor(step, plan.tune_steps, warm=20, hold=0.3)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = rate
        index = torch.randint(len(images), (plan.tune_batch,), generator=rng)
        batch, wanted = images[index].float() / 255.0, targets[index]
        flip = torch.rand(len(batch), generator=rng) < 0.5
        batch[flip], wanted[flip] = batch[flip].flip(3), wanted[flip].flip(3)
        batch = light_and_noise(batch, rng, 0.5)
        tokens, keys = tokens_and_keys(vit, batch)
        logits = to_pixels(head(keys.float()).squeeze(-1))
        with torch.no_grad():
            kept, _ = tokens_and_keys(before, batch)
        drift = 1 - F.cosine_similarity(tokens, kept, dim=-1).mean()
        loss = F.binary_cross_entropy_with_logits(logits, wanted) + drift
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        for opt in opts:
            opt.step()
        if step % 60 == 0:
            spent = time.perf_counter() - began
            print(
                f"tune {step} loss {loss.item():.3f} {drift.item():.3f} {spent:.0f} s", flush=True
            )


def train_found(vit: nn.Module, scenes: Scenes, seed: int, plan: FoundPlan) -> nn.Linear:
    """Fit the head on frozen keys, then tune head and ViT (in place) on its own refined maps.

    Args:
        vit: trained without labels.
        scenes: only the images are used.
        seed: of the first weights and the batches.
        plan: sizes and steps.
    """
    torch.manual_seed(seed)
    began = time.perf_counter()
    images = scenes.images[: plan.scenes]
    keys = all_keys(vit, images)
    head = nn.Linear(WIDTH, 1)
    targets = targets_of(images, seed_masks(keys))
    for turn in range(plan.rounds):
        fit_head(keys, targets, head, plan.head_steps, seed + turn)
        with torch.no_grad():
            targets = targets_of(images, head(keys).squeeze(-1).sigmoid())
        print(f"found round {turn} {time.perf_counter() - began:.0f} s", flush=True)
    fit_head(keys, targets, head, plan.head_steps, seed + plan.rounds)
    if plan.tune_steps:
        tune(vit, head, (images, targets), plan)
    return head
