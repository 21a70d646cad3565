"""Train the second ViT without labels: self-distillation as in DINO and iBOT.

The student gets two masked and two small windows of a scene; its moving average, the teacher, gets
the two windows unmasked. Both assign views and patches to prototypes, with Sinkhorn centring.

Shapes: B images, T = 1 + N tokens, N patches, C width, P prototypes, H W pixels.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from training import networks, optim
from training.data import SCENE_HW, Scenes, crop_scenes, light_and_noise
from training.readouts import IMAGENET_MEAN, IMAGENET_STD

ARCHITECTURE = "vit_tiny_patch16_224"
TABLE_SIDE = 10
KWARGS: dict = {
    "img_size": 8 * TABLE_SIDE,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 0,
    "dynamic_img_size": True,
}
WIDTH = 128
PROTOTYPES = 192


@dataclass(frozen=True)
class VitPlan:
    """The schedule."""

    steps: int = 700
    batch: int = 32
    rate: float = 1.5e-3
    masked: float = 0.4
    teacher_start: float = 0.99


class Projector(nn.Module):
    """Project tokens to a unit bottleneck and its cosine similarities with prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Linear(64, PROTOTYPES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the similarities (..., P) of tokens (..., C)."""
        unit = F.normalize(self.body(x), dim=-1)
        return F.linear(unit, F.normalize(self.prototypes.weight, dim=-1))


class Learner(nn.Module):
    """The ViT with the parts of the self-distillation that are not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model(ARCHITECTURE, **KWARGS)
        self.mask_token = nn.Parameter(torch.zeros(WIDTH))
        self.of_view, self.of_patch = Projector(), Projector()

    def forward(self, images: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return scores of views (B, P) and patches (B, N, P) of images in [0, 1]."""
        x = vit_tokens(self.vit, images, self.mask_token, masked)
        return self.of_view(x[:, 0]), self.of_patch(x[:, 1:])


def vit_block(x: Tensor, blk: nn.Module) -> Tensor:
    """Run a residual block of timm on (B, T, C), float32, with bfloat16 products."""
    att = blk.attn
    x = x + networks.attention(
        blk.norm1(x).bfloat16(),
        att.num_heads,
        (att.qkv.weight, att.qkv.bias),
        (att.proj.weight, att.proj.bias),
    )
    hidden = networks.linear(blk.norm2(x).bfloat16(), blk.mlp.fc1.weight, blk.mlp.fc1.bias)
    return x + networks.linear(F.gelu(hidden), blk.mlp.fc2.weight, blk.mlp.fc2.bias)


def embed(
    vit: nn.Module,
    images: Tensor,
    mask_token: Tensor | None = None,
    masked: Tensor | None = None,
    offset: float = 0.0,
) -> Tensor:
    """Return the patch embedding with class token and positions (B, 1 + N, C)."""
    grid = (images.shape[2] // 8, images.shape[3] // 8)
    cells = networks.patchify((images - IMAGENET_MEAN) / IMAGENET_STD, 8).bfloat16()
    proj = vit.patch_embed.proj
    x = networks.linear(cells, proj.weight.view(WIDTH, -1), proj.bias).float()
    if masked is not None:
        x = torch.where(masked[..., None], mask_token, x)
    table = vit.pos_embed[0]
    x = x + networks.grow_positions(table[1:], TABLE_SIDE, grid, offset)
    first = (vit.cls_token[0] + table[:1]).expand(len(x), 1, -1)
    return torch.cat([first, x], dim=1)


def vit_tokens(
    vit: nn.Module, images: Tensor, mask_token: Tensor | None = None, masked: Tensor | None = None
) -> Tensor:
    """Return the final tokens (B, 1 + N, C)."""
    x = embed(vit, images, mask_token, masked)
    for blk in vit.blocks:
        x = vit_block(x, blk)
    return vit.norm(x)


def tokens_and_keys(vit: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return final tokens (B, 1 + N, C) and keys of the last block (B, N, C), positions as DINO.

    Args:
        vit: timm's model.
        images: (B, 3, H, W) in [0, 1], sides multiples of 8.
    """
    x = embed(vit, images, offset=0.1)
    for blk in vit.blocks[:-1]:
        x = vit_block(x, blk)
    last = vit.blocks[-1]
    qkv = F.linear(last.norm1(x)[:, 1:], last.attn.qkv.weight, last.attn.qkv.bias)
    return vit.norm(vit_block(x, last)), qkv[..., WIDTH : 2 * WIDTH]


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float = 0.06, rounds: int = 3) -> Tensor:
    """Return assignments (rows, P) that use all prototypes equally; rows sum to 1."""
    q = torch.exp((scores - scores.max()) / temperature)
    for _ in range(rounds):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-12)
        q = q / q.sum(1, keepdim=True).clamp_min(1e-12)
    return q


def random_windows(
    scenes: Scenes, index: Tensor, low: float, high: float, size: int, rng: torch.Generator
) -> Tensor:
    """Return an augmented window per scene (B, 3, size, size), of `low` to `high` px."""
    count = len(index)
    side = low + (high - low) * torch.rand(count, generator=rng)
    y0 = torch.rand(count, generator=rng) * (SCENE_HW[0] - side)
    x0 = torch.rand(count, generator=rng) * (SCENE_HW[1] - side)
    images = crop_scenes(scenes, index, torch.stack([y0, x0, y0 + side, x0 + side], 1), size)
    flip = torch.rand(count, generator=rng) < 0.5
    images[flip] = images[flip].flip(3)
    return light_and_noise(images, rng, 0.8)


def distil_loss(student: Learner, teacher: Learner, views: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the loss of views between windows and of masked patches.

    Args:
        student: is trained.
        teacher: gives the targets.
        views: two large windows stacked (2 B, ...), small windows (2 B, ...), mask (2 B, N).
    """
    large, small, masked = views
    with torch.no_grad():
        view_t, patch_t = teacher(large)
        view_q = sinkhorn(view_t)
        patch_q = sinkhorn(patch_t.flatten(0, 1)).view_as(patch_t)
    view_s, patch_s = student(large, masked)
    small_s, _ = student(small)
    half = len(large) // 2
    other = torch.cat([view_q[half:], view_q[:half]])
    log_s = F.log_softmax(view_s / 0.1, dim=-1)
    log_small = F.log_softmax(small_s / 0.1, dim=-1)
    view_loss = -(other * log_s).sum(-1).mean()
    both = 0.5 * (view_q + other)
    view_loss = 0.5 * view_loss - 0.5 * (both * log_small).sum(-1).mean()
    patch_log = F.log_softmax(patch_s[masked] / 0.1, dim=-1)
    return view_loss - (patch_q[masked] * patch_log).sum(-1).mean()


def save_vit(vit: nn.Module, folder: Path) -> None:
    """Write a folder for timm's `local-dir:` and for `checkpoint_path`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().clone().contiguous() for k, v in vit.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    # timm's `local-dir:` reads `architecture`, `model_args` and `pretrained_cfg`; `kwargs` is for
    # callers that pass `checkpoint_path`.
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "kwargs": KWARGS,
        "model_args": KWARGS,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, 8 * TABLE_SIDE, 8 * TABLE_SIDE],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def compile_hot_paths() -> None:
    """Compile the blocks; attention is five times slower without."""
    globals()["vit_block"] = torch.compile(vit_block, dynamic=False)


def train_vit(scenes: Scenes, seed: int, plan: VitPlan) -> nn.Module:
    """Train from random weights and return the teacher's ViT."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed + 1)
    student = Learner()
    teacher = copy.deepcopy(student).requires_grad_(False)
    opts = optim.optimisers([student.vit.blocks], [student], plan.rate)
    began = time.perf_counter()
    for step in range(plan.steps):
        factor = optim.learning_rate_factor(step, plan.steps)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = plan.rate * factor
        index = torch.randint(len(scenes.images), (plan.batch,), generator=rng)
        side = 8 * TABLE_SIDE
        large = torch.cat([random_windows(scenes, index, 60, 106, side, rng) for _ in range(2)])
        small = torch.cat([random_windows(scenes, index, 32, 64, 48, rng) for _ in range(2)])
        masked = torch.rand(len(large), TABLE_SIDE**2, generator=rng) < plan.masked
        loss = distil_loss(student, teacher, (large, small, masked))
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        for opt in opts:
            opt.step()
        keep = 1 - (1 - plan.teacher_start) * max(factor, 0.1)
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 1 - keep)
        if step % 100 == 0:
            spent = time.perf_counter() - began
            print(f"vit {step} loss {loss.item():.3f} {spent:.0f} s", flush=True)
    return teacher.vit
