"""Train a tiny SAM on drawn scenes: masks of objects from a point, a box or a coarse mask.

The network is `transformers.SamModel` with a small configuration, so that it loads as any other SAM
does; its image encoder begins as the embedded ViT, which learned without labels. It learns from the
exact masks of the drawn objects, without their words: a point on the background stands for the
background. Of three masks for a point only the best one is corrected, as
published (Kirillov et al., ICCV 2023, section 3); each mask's IoU is learned beside it.

Shapes: B scenes, P prompts of a scene, 3 masks for a prompt, S side of the input in pixels, M side
of the masks (S / 2).
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from training import optim
from training.data import MAX_OBJECTS, SCENE_HW, Scenes, channel_mix, light_and_noise
from training.readouts import IMAGENET_MEAN, IMAGENET_STD

SIDE_PX = 160
PATCH_PX = 8
MASK_PX = SIDE_PX // 2
_WIDTH, _DECODER_WIDTH = 128, 64
_POSITION_SCALE = 2.0
"""Points closer than about a patch have similar positions (1.0: two patches, as published)."""
_MIN_AREA_PX = 12
"""Of an object with fewer visible pixels no masks are asked for."""
_DEGRADED_CELLS = 10
"""Side of the grid that coarse masks are made on, about as coarse as a dense method's scores."""


@dataclass(frozen=True)
class SamPlan:
    """A schedule."""

    steps: int = 1600
    batch: int = 8
    prompts: int = 5
    rate: float = 1.2e-3
    mixed: float = 0.25


PLANS = (SamPlan(), SamPlan(steps=1200, rate=8e-4))
"""One after the other; the second was added because the first was too short."""


def new_sam() -> SamModel:
    """Return the network with random weights."""
    decoder = {"hidden_size": _DECODER_WIDTH, "mlp_dim": 2 * _DECODER_WIDTH}
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=_WIDTH,
            output_channels=_DECODER_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            mlp_dim=4 * _WIDTH,
            image_size=SIDE_PX,
            patch_size=PATCH_PX,
            initializer_range=0.02,
            use_rel_pos=False,
            window_size=10,  # the ViT learned on windows of 10 x 10 patches
            global_attn_indexes=[1, 3],
            num_pos_feats=_DECODER_WIDTH // 2,
        ).to_dict(),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=_DECODER_WIDTH,
            image_size=SIDE_PX,
            patch_size=PATCH_PX,
            image_embedding_size=SIDE_PX // PATCH_PX,
            mask_input_channels=8,
        ).to_dict(),
        mask_decoder_config=SamMaskDecoderConfig(
            **decoder, num_attention_heads=4, iou_head_hidden_dim=_DECODER_WIDTH
        ).to_dict(),
    )
    sam = SamModel(config)
    # The initial values of the published code. Those of transformers are meant for loading: its
    # positions of neighbouring points would be unrelated (a scale of 64 instead of 1), and a
    # prompt could not be found in the image.
    for part in [*sam.prompt_encoder.modules(), *sam.mask_decoder.modules()]:
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    nn.init.normal_(sam.shared_image_embedding.positional_embedding, std=_POSITION_SCALE)
    sam.tie_weights()
    return sam


def begin_sam(vit: nn.Module, seed: int) -> SamModel:
    """Return a network whose image encoder is the embedded ViT; its other weights are random."""
    torch.manual_seed(seed)
    sam = new_sam()
    take_vit(sam, vit)
    return sam


def take_vit(sam: SamModel, vit: nn.Module) -> None:
    """Give the image encoder the weights of a ViT of its sizes; positions are interpolated."""
    encoder, of_vit = sam.vision_encoder, vit.state_dict()
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "fc1": "lin1", "fc2": "lin2"}
    taken = {}
    for name, values in of_vit.items():
        parts = [names.get(part, part) for part in name.split(".")]
        if parts[0] == "blocks":
            taken[".".join(["layers", *parts[1:]])] = values
    taken["patch_embed.projection.weight"] = of_vit["patch_embed.proj.weight"]
    taken["patch_embed.projection.bias"] = of_vit["patch_embed.proj.bias"]
    table_NC = of_vit["pos_embed"][0, 1:]
    side = round(len(table_NC) ** 0.5)
    table = table_NC.T.view(1, -1, side, side)
    size = encoder.pos_embed.shape[1:3]
    table = F.interpolate(table, size=size, mode="bicubic", align_corners=False)
    taken["pos_embed"] = table.permute(0, 2, 3, 1)
    _, unknown = encoder.load_state_dict(taken, strict=False)
    assert not unknown, unknown


def train_sam(
    sam: SamModel,
    scenes: Scenes,
    seed: int,
    plan: SamPlan,
    keep: Callable[[SamModel], None] | None = None,
) -> SamModel:
    """Train a network on scenes; return the moving average of its weights.

    Args:
        sam: from `begin_sam`, or from an earlier training.
        scenes: with their instance maps.
        seed: of the windows and the prompts.
        plan: the schedule.
        keep: called with the moving average every 200 steps.
    """
    rng = torch.Generator().manual_seed(seed)
    sam.train()
    average = AveragedModel(sam, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    matrices = [*sam.vision_encoder.layers, sam.mask_decoder.transformer]
    optimisers = optim.optimisers(matrices, [sam], plan.rate)
    began = time.perf_counter()
    for step in range(plan.steps):
        factor = optim.learning_rate_factor(step, plan.steps)
        for group in (group for one in optimisers for group in one.param_groups):
            group["lr"] = plan.rate * factor
        loss, iou = _loss(sam, *draw_batch(scenes, plan, rng), plan, rng)
        sam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        for one in optimisers:
            one.step()
        average.update_parameters(sam)
        if step % 50 == 0:
            spent = time.perf_counter() - began
            print(f"sam {step} loss {loss.item():.3f} IoU {iou:.3f} {spent:.0f} s", flush=True)
        if keep is not None and step and step % 200 == 0:
            keep(average.module)
    return average.module.eval()


def save_sam(sam: SamModel, folder: Path) -> None:
    """Save the network with its image processor, as `from_pretrained` reads them.

    The file has float16; config.json says float32, which is what the network is loaded as.
    """
    copy.deepcopy(sam).half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=1) + "\n")
    SamImageProcessor(
        size={"longest_edge": SIDE_PX},
        mask_size={"longest_edge": MASK_PX},
        pad_size={"height": SIDE_PX, "width": SIDE_PX},
        mask_pad_size={"height": MASK_PX, "width": MASK_PX},
    ).save_pretrained(folder)


def draw_batch(scenes: Scenes, plan: SamPlan, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return normalised squares (B, 3, S, S) and instance maps (B, S, S); -1 is padding."""
    index = torch.randint(len(scenes.images), (plan.batch,), generator=rng)
    height = PATCH_PX * int(torch.randint(10, SIDE_PX // PATCH_PX + 1, (1,), generator=rng))
    grid = _windows(plan.batch, height, rng)
    images = scenes.images[index].float() / 255
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    maps = scenes.instances[index][:, None].float()
    maps = F.grid_sample(maps, grid, mode="nearest", padding_mode="border", align_corners=False)
    is_mixed = torch.rand(plan.batch, generator=rng) < plan.mixed
    images = light_and_noise(channel_mix(images, is_mixed, rng), rng)
    padding = (0, 0, 0, SIDE_PX - height)
    images = F.pad((images - IMAGENET_MEAN) / IMAGENET_STD, padding)
    maps = F.pad(maps[:, 0], padding, value=-1)
    is_tall = torch.rand(plan.batch, generator=rng) < 0.5
    images = torch.where(is_tall[:, None, None, None], images.transpose(2, 3), images)
    return images, torch.where(is_tall[:, None, None], maps.transpose(1, 2), maps)


def _windows(count: int, height: int, rng: torch.Generator) -> Tensor:
    """Return sampling grids (B, height, S, 2) of windows of scenes, half of them mirrored.

    A window has 60 to 100 % of the scene's width, less where it would be higher than the scene.
    """
    aspect = height / SCENE_HW[0]
    share = (0.6 + 0.4 * torch.rand(count, 1, generator=rng)) * min(1, 1 / aspect)
    shares = torch.cat([share, share * aspect], dim=1)
    centre = (1 - shares) * (2 * torch.rand(count, 2, generator=rng) - 1)
    side = torch.where(torch.rand(count, 1, generator=rng) < 0.5, -share, share)
    rows = (torch.arange(height) + 0.5) / height * 2 - 1
    columns = (torch.arange(SIDE_PX) + 0.5) / SIDE_PX * 2 - 1
    y = rows * shares[:, 1:] + centre[:, 1:]
    x = columns * side + centre[:, :1]
    return torch.stack(
        [x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, SIDE_PX)], dim=-1
    )


def _loss(
    sam: SamModel, images: Tensor, maps: Tensor, plan: SamPlan, rng: torch.Generator
) -> tuple[Tensor, float]:
    """Return the loss of one batch, and the mean IoU of its best masks."""
    embeddings = sam.vision_encoder(images)[0]
    points, wanted = draw_points(maps, plan.prompts, rng)
    targets = F.avg_pool2d(wanted.float(), 2)
    labels = torch.ones(points.shape[:2], dtype=torch.long)[..., None]
    by_point = sam(
        image_embeddings=embeddings, input_points=points[:, :, None].float(), input_labels=labels
    )
    loss, iou = _mask_loss(by_point.pred_masks, by_point.iou_scores, targets)
    boxes = boxes_of(wanted, rng)
    by_box = sam(image_embeddings=embeddings, input_boxes=boxes, multimask_output=False)
    loss = loss + _mask_loss(by_box.pred_masks, by_box.iou_scores, targets)[0]
    # A coarse mask comes with the point, the box or both; one prompt of each scene has one.
    kind = int(torch.randint(3, (1,), generator=rng))
    by_mask = sam(
        image_embeddings=embeddings,
        input_points=None if kind == 0 else points[:, :1, None].float(),
        input_labels=None if kind == 0 else labels[:, :1],
        input_boxes=None if kind == 1 else boxes[:, :1],
        input_masks=coarse_masks(targets[:, :1], rng),
        multimask_output=False,
    )
    loss = loss + 0.5 * _mask_loss(by_mask.pred_masks, by_mask.iou_scores, targets[:, :1])[0]
    return loss, iou


def draw_points(maps: Tensor, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points (B, P, 2) as x, y, and what each stands for: bool (B, P, S, S).

    A point is drawn from an object that is drawn first, one in eight from the background.
    """
    batch, side = len(maps), maps.shape[-1]
    flat = maps.flatten(1).long()
    padding = MAX_OBJECTS + 1
    numbers = torch.where(flat < 0, padding, flat)
    areas = torch.zeros(batch, padding + 1).scatter_add_(1, numbers, torch.ones(flat.shape))
    chances = (areas[:, :padding] >= _MIN_AREA_PX).float()
    chances[:, 0] = chances[:, 1:].sum(1).clamp(min=1) / 7
    numbers = torch.multinomial(chances + 1e-6, count, replacement=True, generator=rng)
    wanted = maps[:, None] == numbers[..., None, None]
    inside = wanted.flatten(0, 1).flatten(1).float()
    place = torch.multinomial(inside + 1e-9, 1, generator=rng)[:, 0]
    points = torch.stack([place % side, place // side], dim=-1).view(batch, count, 2)
    return points, wanted


def boxes_of(wanted: Tensor, rng: torch.Generator, jitter_px: float = 2) -> Tensor:
    """Return boxes (B, P, 4) as x0, y0, x1, y1 around masks (B, P, S, S), a few pixels off."""
    side = wanted.shape[-1]
    place = torch.arange(side)
    columns, rows = wanted.any(2), wanted.any(3)
    first = [torch.where(it, place, side).amin(-1) for it in (columns, rows)]
    last = [torch.where(it, place + 1, 0).amax(-1) for it in (columns, rows)]
    boxes = torch.stack([*first, *last], dim=-1).float()
    return (boxes + jitter_px * torch.randn(boxes.shape, generator=rng)).clamp(0, side)


def coarse_masks(targets: Tensor, rng: torch.Generator) -> Tensor:
    """Return logits (B, 1, M, M) as a dense method's scores would give for targets (B, 1, M, M)."""
    cells = F.adaptive_avg_pool2d(targets, _DEGRADED_CELLS)
    cells = cells + 0.15 * torch.randn(cells.shape, generator=rng)
    maps = F.interpolate(cells, size=targets.shape[-2:], mode="bilinear")
    return (maps - 0.5) * 12


def _mask_loss(logits: Tensor, predicted_iou: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Return the loss of the best of the masks (B, P, 1 or 3, M, M) for targets (B, P, M, M)."""
    wanted = targets[:, :, None].expand_as(logits)
    cross = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").flatten(3)
    # Pixels that are wrong count more (focal), but softly: an outline is learned to half a pixel.
    probs = logits.sigmoid().flatten(3)
    soft = wanted.flatten(3)
    focal = ((probs - soft).abs() * cross).mean(3)
    dice = 1 - (2 * (probs * soft).sum(3) + 1) / (probs.sum(3) + soft.sum(3) + 1)
    masks, truth = logits.flatten(3) > 0, soft > 0.5
    union = (masks | truth).sum(3)
    iou = ((masks & truth).sum(3) / union.clamp(min=1)).detach()
    best = 10 * focal + dice
    chosen = best.argmin(2, keepdim=True)
    loss = best.gather(2, chosen).mean() + F.mse_loss(predicted_iou, iou)
    return loss, float(iou.gather(2, chosen).mean())
