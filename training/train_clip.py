"""Train the embedded CLIP: with attribute heads first, then with captions, on crops and scenes.

Shapes: B images, J captions, N patches, D joint width, S side of an image; attributes are (shape,
colour, pattern), -1 where not named or no object.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from jobs.demo.paint import COLOURS
from jobs.demo.scenes import HELD_OUT_PAIRS
from jobs.demo.shapes import SHAPES
from training import networks, optim
from training.captions import CONTEXT, Captions, choose_words, write_bpe
from training.data import (
    CROP_PX,
    MAX_OBJECTS,
    Crops,
    Scenes,
    channel_mix,
    crop_scenes,
    draw_windows,
    light_and_noise,
    shift_and_flip,
    visible_share,
)

NUM_WORDS = (12, 8, 4)
# Probabilities of: around an object, part of an object, anywhere, the whole scene.
CROP_KINDS = torch.tensor([0.6, 0.12, 0.2, 0.08])
WIDE_KINDS = torch.tensor([0.0, 0.0, 1.0, 0.0])


@dataclass(frozen=True)
class ClipPlan:
    """The schedule.

    Attributes:
        steps: training steps.
        batch: images per step.
        rate: peak learning rate.
        warm_share: share of the steps with attribute heads only.
        wide_from: share of the steps after which every third step has windows of `wide_px`.
        wide_px: their side.
        wide_batch: their number per step.
    """

    steps: int = 2600
    batch: int = 192
    rate: float = 2e-3
    warm_share: float = 0.2
    wide_from: float = 0.4
    wide_px: int = 96
    wide_batch: int = 48


HELD_OUT = torch.zeros(len(SHAPES), len(COLOURS), dtype=torch.bool)
for _colour, _shape in HELD_OUT_PAIRS:
    HELD_OUT[SHAPES.index(_shape), tuple(COLOURS).index(_colour)] = True


@dataclass
class Batch:
    """Images with what captions may say of them.

    Attributes:
        images: (B, 3, S, S) in [0, 1].
        visible: (B, 6, 3) attributes of the visible objects, -1: none.
        named: (2, B, 3) attributes of the objects of the two captions.
        empty: (B,) bool: no object is visible.
        known: (B,) bool: the colours are true (not channel-mixed).
    """

    images: Tensor
    visible: Tensor
    named: Tensor
    empty: Tensor
    known: Tensor


def centred_batch(crops: Crops, count: int, rng: torch.Generator) -> Batch:
    """Return a random batch of images of one object."""
    index = torch.randint(len(crops.images), (count,), generator=rng)
    images = shift_and_flip(crops.images[index].float() / 255.0, rng)
    visible = torch.full((count, MAX_OBJECTS, 3), -1)
    visible[:, 0] = crops.attrs[index]
    none = torch.zeros(count, dtype=torch.bool)
    return Batch(images, visible, visible[:, 0].expand(2, -1, -1), none, ~none)


def window_batch(
    scenes: Scenes, count: int, size: int, kinds: Tensor, rng: torch.Generator
) -> Batch:
    """Return windows of scenes; captions name the object at the centre or any visible one.

    Up to one window in twelve is empty background.
    """
    spare = 2 * count
    index, boxes, target = draw_windows(scenes, spare, rng, kinds)
    fill, inside = visible_share(scenes, index, boxes)
    total = fill.sum(1)
    nameable = (fill >= 0.03) & ((inside >= 0.4) | (fill >= 0.3))
    empty = total <= 0.004
    usable = nameable.any(1).nonzero()[:, 0]
    background = empty.nonzero()[:, 0][: count // 12]
    chosen = torch.cat([background, usable[: count - len(background)]])
    chosen = chosen[torch.randperm(len(chosen), generator=rng)]
    index, boxes, fill = index[chosen], boxes[chosen], fill[chosen]
    nameable, empty, target = nameable[chosen], empty[chosen], target[chosen]
    weight = fill * nameable + 1e-9
    first = weight.argmax(1)
    row = torch.arange(len(chosen))
    centre = (target >= 0) & nameable[row, target.clamp_min(0)]
    first = torch.where(centre, target, first)
    second = torch.multinomial(nameable.float() + 1e-9, 1, generator=rng)[:, 0]
    attrs = scenes.attrs[index]
    visible = torch.where((fill >= 0.01)[..., None], attrs, torch.full_like(attrs, -1))
    images = crop_scenes(scenes, index, boxes, size)
    flip = torch.rand(len(images), generator=rng) < 0.5
    images[flip] = images[flip].flip(3)
    named = torch.stack([attrs[row, first], attrs[row, second]])
    return Batch(images, visible, named, empty, torch.ones_like(empty))


def join(parts: list[Batch]) -> Batch:
    """Concatenate batches of one image size."""
    return Batch(
        torch.cat([p.images for p in parts]),
        torch.cat([p.visible for p in parts]),
        torch.cat([p.named for p in parts], dim=1),
        torch.cat([p.empty for p in parts]),
        torch.cat([p.known for p in parts]),
    )


def augment(batch: Batch, mix_share: float, rng: torch.Generator) -> Batch:
    """Return the batch with false colours on a share of images, and other light and noise."""
    mixed = torch.rand(len(batch.images), generator=rng) < mix_share
    images = light_and_noise(channel_mix(batch.images, mixed, rng), rng)
    return Batch(images, batch.visible, batch.named, batch.empty, ~mixed)


def true_of(batch: Batch, words: Tensor, caption_empty: Tensor) -> Tensor:
    """Return which captions are true of which images (B, J), bool; unknown colours match any.

    Args:
        batch: the images.
        words: (J, 3) named attributes.
        caption_empty: (J,) bool: captions of an empty background.
    """
    unnamed = (words < 0)[None, None]
    agree = (batch.visible[:, :, None] == words[None, None]) | unnamed
    agree[..., 1] |= ~batch.known[:, None, None]
    exists = (batch.visible[..., 0] >= 0)[:, :, None]
    is_true = (agree.all(-1) & exists).any(1)
    return torch.where(caption_empty[None], batch.empty[:, None].expand_as(is_true), is_true)


def exchange_one_word(words: Tensor, rng: torch.Generator) -> Tensor:
    """Return hard negatives: captions with one word replaced, never giving a held-out pair.

    Args:
        words: (J, 3). Rows that would give a held-out pair are unchanged (the caller masks true
            captions).
        rng: for position and word.
    """
    named = (words >= 0).float() + 1e-6
    place = torch.multinomial(named, 1, generator=rng)[:, 0]
    sizes = torch.tensor([12, 8, 4])[place]
    step = 1 + (torch.rand(len(words), generator=rng) * (sizes - 1)).long()
    row = torch.arange(len(words))
    changed = words.clone()
    changed[row, place] = torch.where(
        words[row, place] >= 0, (words[row, place] + step) % sizes, words[row, place]
    )
    forbidden = HELD_OUT[changed[:, 0].clamp_min(0), changed[:, 1].clamp_min(0)]
    forbidden &= (changed[:, 0] >= 0) & (changed[:, 1] >= 0)
    return torch.where(forbidden[:, None], words, changed)


class ClipTrainer(nn.Module):
    """The CLIP, its attribute heads (not saved) and the two logit scales."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        folder.mkdir(parents=True, exist_ok=True)
        bpe = folder / "bpe_simple_vocab.txt.gz"
        vocab_size = write_bpe(bpe)
        self.config = networks.clip_config(vocab_size, CONTEXT)
        self.captions = Captions(SimpleTokenizer(str(bpe), context_length=CONTEXT))
        self.clip = open_clip.CLIP(**self.config)
        self.heads = nn.ModuleList(nn.Linear(self.config["embed_dim"], n) for n in NUM_WORDS)
        self.log_scales = nn.Parameter(torch.tensor([3.0, 3.0]))
        self.rng = torch.Generator().manual_seed(seed)

    def scales(self) -> Tensor:
        """Return the logit scales of the pooled and the dense loss, each in 8..80."""
        return self.log_scales.exp().clamp(8, 80)

    def save(self, folder: Path) -> None:
        """Write a folder for open_clip's `local-dir:`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().clone().contiguous() for k, v in self.clip.state_dict().items()}
        state["logit_scale"] = self.scales()[0].detach().log()
        save_file(state, folder / "open_clip_model.safetensors")
        preprocess = {
            "mean": list(open_clip.OPENAI_DATASET_MEAN),
            "std": list(open_clip.OPENAI_DATASET_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        }
        text = json.dumps({"model_cfg": self.config, "preprocess_cfg": preprocess}, indent=2)
        (folder / "open_clip_config.json").write_text(text + "\n")


def head_loss(heads: nn.ModuleList, batch: Batch, pooled: Tensor, dense: Tensor) -> Tensor:
    """Return the cross-entropy of shape, colour and pattern (never of pairs).

    On the pooled and on the dense features, whose logits are pooled over patches by log-sum-exp.
    """
    total = pooled.new_zeros(())
    for place, head in enumerate(heads):
        use = ~batch.empty & (batch.known if place == 1 else torch.ones_like(batch.known))
        wanted = batch.named[0, use, place]
        total = total + F.cross_entropy(head(pooled[use]), wanted)
        spread = torch.logsumexp(head(dense[use]), dim=1)
        total = total + 0.5 * F.cross_entropy(spread, wanted)
    return total


def contrastive_loss(scores: Tensor, truth: Tensor, count: int) -> Tensor:
    """Return symmetric InfoNCE; captions that are also true of another image are not negatives.

    Args:
        scores: (B, J) logits; the first 2 B captions are two for each image, the rest negatives.
        truth: (B, J) bool: which captions are true of which images.
        count: B.
    """
    row = torch.arange(count)
    total = scores.new_zeros(())
    for offset in (0, count):
        hidden = truth.clone()
        hidden[row, row + offset] = False
        total = total + 0.25 * F.cross_entropy(scores.masked_fill(hidden, -1e4), row + offset)
    hidden = truth[:, : 2 * count].clone()
    hidden[row, row] = hidden[row, row + count] = False
    picked = scores[:, : 2 * count].masked_fill(hidden, -1e4).T
    return total + 0.5 * F.cross_entropy(picked, torch.cat([row, row]))


def low_similarity_penalty(cosines: Tensor) -> Tensor:
    """Return a penalty of cosine similarities below 0.15.

    Those of large CLIPs are positive, and CLIP-DIY multiplies them with the objectness, which would
    reverse the order of negative ones. Image and text embeddings come to share a direction.
    """
    return 4.0 * F.relu(0.15 - cosines).square().mean()


def log_mean_exp(patches: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (B, J) by log-mean-exp over patches, and the penalty of low similarities.

    Args:
        patches: (B, N, D), unit.
        text: (J, D), unit.
        scale: of the similarities.
    """
    # The largest array of a step; bfloat16 halves it.
    cosines = torch.einsum("bnd,jd->bnj", patches.bfloat16(), text.bfloat16())
    penalty = low_similarity_penalty(cosines[:, ::5].float())
    spread = torch.logsumexp(cosines.float() * scale, dim=1)
    return spread - math.log(patches.shape[1]), penalty


def caption_loss(model: ClipTrainer, batch: Batch, features: tuple, weight: float) -> Tensor:
    """Return the contrastive losses of the pooled embedding (times `weight`) and the value path."""
    pooled, dense, bare = (F.normalize(f, dim=-1) for f in features)
    count, rng = len(pooled), model.rng
    known = batch.known & ~batch.empty
    words = [choose_words(batch.named[i], known, rng) for i in (0, 1)]
    words.append(exchange_one_word(words[0], rng))
    words_all = torch.cat(words)
    empty = batch.empty.repeat(3)
    text = networks.text_features(model.clip, model.captions.tokens(words_all, empty, rng))
    text = F.normalize(text, dim=-1)
    words_all = torch.where(empty[:, None], torch.full_like(words_all, -1), words_all)
    truth = true_of(batch, words_all, empty)
    scale_pooled, scale_dense = model.scales()
    loss = pooled.new_zeros(())
    if weight:
        cosines = pooled @ text.T
        loss = (
            loss
            + weight * contrastive_loss(scale_pooled * cosines, truth, count)
            + low_similarity_penalty(cosines)
        )
    for patches, share in ((dense, 0.5), (bare, 0.3)):
        spread, penalty = log_mean_exp(patches, text, scale_dense)
        loss = loss + share * contrastive_loss(spread, truth, count) + penalty
    return loss


def next_batch(
    model: ClipTrainer, crops: Crops, scenes: Scenes, plan: ClipPlan, step: int
) -> tuple[Batch, float]:
    """Return the images of a step and the weight of their pooled loss."""
    done = step / plan.steps
    if done > plan.wide_from and step % 3 == 0:
        wide = window_batch(scenes, plan.wide_batch, plan.wide_px, WIDE_KINDS, model.rng)
        return augment(wide, 0.3, model.rng), 0.0
    centred = round(plan.batch * (0.7 - 0.45 * min(1.0, done / 0.5)))
    parts = [centred_batch(crops, centred, model.rng)]
    parts.append(window_batch(scenes, plan.batch - centred, CROP_PX, CROP_KINDS, model.rng))
    return augment(join(parts), 0.5 if done < 0.5 else 0.4, model.rng), 0.6


def compile_hot_paths() -> None:
    """Compile the hot functions; takes about a minute the first time on a machine."""
    networks.block = torch.compile(networks.block, dynamic=False)
    networks.mlp = torch.compile(networks.mlp, dynamic=False)
    globals()["log_mean_exp"] = torch.compile(log_mean_exp, dynamic=False)


def train_clip(
    crops: Crops, scenes: Scenes, folder: Path, seed: int, plan: ClipPlan
) -> ClipTrainer:
    """Train from random weights and write a folder for open_clip."""
    model = ClipTrainer(folder, seed)
    opts = optim.optimisers(
        [model.clip.visual.transformer.resblocks], [model.clip, model.heads], plan.rate
    )
    opts[1].add_param_group({"params": [model.log_scales], "weight_decay": 0.0})
    began = time.perf_counter()
    for step in range(plan.steps):
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = plan.rate * optim.learning_rate_factor(step, plan.steps)
        batch, weight = next_batch(model, crops, scenes, plan, step)
        features = networks.vision_features(model.clip.visual, batch.images)
        warm = step < plan.warm_share * plan.steps
        loss = head_loss(model.heads, batch, *features[:2]) * (1.0 if warm else 0.2)
        if not warm:
            loss = loss + caption_loss(model, batch, features, weight)
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        for opt in opts:
            opt.step()
        if step % 100 == 0:
            spent = time.perf_counter() - began
            print(f"clip {step} loss {loss.item():.3f} {spent:.0f} s", flush=True)
        if step % 500 == 499:
            model.save(folder)
    model.save(folder)
    return model
