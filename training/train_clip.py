"""Train the embedded CLIP: attribute heads first, then captions, on crops and on scenes."""

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

from training import towers
from training.batches import (
    Batch,
    augmented,
    centred_batch,
    exchange_one_word,
    join,
    true_of,
    window_batch,
)
from training.data import CROP_PX, Crops, Scenes
from training.words import CONTEXT, Captions, choose_words, write_bpe

NUM_WORDS = (12, 8, 4)
# Around an object, part of an object, anywhere, the whole scene.
CROP_KINDS = torch.tensor([0.6, 0.12, 0.2, 0.08])
WIDE_KINDS = torch.tensor([0.0, 0.0, 1.0, 0.0])


@dataclass(frozen=True)
class ClipPlan:
    """The schedule, in steps."""

    steps: int = 2600
    batch: int = 192
    rate: float = 2e-3
    warm_share: float = 0.2  # attribute heads only
    wide_from: float = 0.4  # from here every third step is on 96 px windows
    wide_px: int = 96
    wide_batch: int = 48


class ClipTrainer(nn.Module):
    """The CLIP, its throwaway attribute heads and the two temperatures."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        folder.mkdir(parents=True, exist_ok=True)
        bpe = folder / "bpe_simple_vocab.txt.gz"
        vocab_size = write_bpe(bpe)
        self.config = towers.clip_config(vocab_size, CONTEXT)
        self.captions = Captions(SimpleTokenizer(str(bpe), context_length=CONTEXT))
        self.clip = open_clip.CLIP(**self.config)
        self.heads = nn.ModuleList(nn.Linear(self.config["embed_dim"], n) for n in NUM_WORDS)
        self.log_scales = nn.Parameter(torch.tensor([3.0, 3.0]))
        self.rng = torch.Generator().manual_seed(seed)

    def scales(self) -> Tensor:
        """Temperatures of the pooled and of the dense loss, each in 8..80."""
        return self.log_scales.exp().clamp(8, 80)

    def save(self, folder: Path) -> None:
        """Write what open_clip's ``local-dir:`` loads."""
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
    """Cross-entropy of shape, colour and pattern, never of a pair, on both read-outs.

    The dense read-out pools each word's logit over the patches by log-mean-exp.
    """
    total = pooled.new_zeros(())
    for place, head in enumerate(heads):
        use = ~batch.empty & (batch.known if place == 1 else torch.ones_like(batch.known))
        wanted = batch.named[0, use, place]
        total = total + F.cross_entropy(head(pooled[use]), wanted)
        spread = torch.logsumexp(head(dense[use]), dim=1)
        total = total + 0.5 * F.cross_entropy(spread, wanted)
    return total


def contrast(scores: Tensor, truth: Tensor, count: int) -> Tensor:
    """Symmetric InfoNCE with captions that are also true of another picture left out.

    Args:
        scores: (B, J) logits; the first 2 B captions belong to pictures 0..B-1 twice over, the
            rest are negatives.
        truth: (B, J) bool, which captions are true of which pictures.
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


def too_low(cosines: Tensor) -> Tensor:
    """A push that keeps raw cosines above 0.15.

    Those of the large CLIPs are positive, and CLIP-DIY multiplies them with the objectness: a
    negative one would turn the order round. Both towers come to share one common direction.
    """
    return 4.0 * F.relu(0.15 - cosines).square().mean()


def log_mean_exp(patches: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the patch scores of each caption: (B, N, D), (J, D) -> (B, J) and the push on cosines.

    The product over all patches and captions is the largest array of a step; bfloat16 halves it.
    """
    cosines = torch.einsum("bnd,jd->bnj", patches.bfloat16(), text.bfloat16())
    low = too_low(cosines[:, ::5].float())
    spread = torch.logsumexp(cosines.float() * scale, dim=1)
    return spread - math.log(patches.shape[1]), low


def caption_loss(model: ClipTrainer, batch: Batch, features: tuple, weight: float) -> Tensor:
    """The contrastive losses of the pooled embedding (``weight``) and of the value path."""
    pooled, dense, bare = (F.normalize(f, dim=-1) for f in features)
    count, rng = len(pooled), model.rng
    known = batch.known & ~batch.empty
    words = [choose_words(batch.named[i], known, rng) for i in (0, 1)]
    words.append(exchange_one_word(words[0], rng))
    words_all = torch.cat(words)
    empty = batch.empty.repeat(3)
    text = towers.text_features(model.clip, model.captions.tokens(words_all, empty, rng))
    text = F.normalize(text, dim=-1)
    words_all = torch.where(empty[:, None], torch.full_like(words_all, -1), words_all)
    truth = true_of(batch, words_all, empty)
    scale_pooled, scale_dense = model.scales()
    loss = pooled.new_zeros(())
    if weight:
        cosines = pooled @ text.T
        loss = loss + weight * contrast(scale_pooled * cosines, truth, count) + too_low(cosines)
    for patches, share in ((dense, 0.5), (bare, 0.3)):
        spread, low = log_mean_exp(patches, text, scale_dense)
        loss = loss + share * contrast(spread, truth, count) + low
    return loss


def next_batch(
    model: ClipTrainer, crops: Crops, scenes: Scenes, plan: ClipPlan, step: int
) -> tuple[Batch, float]:
    """The pictures of a step and the weight of the pooled loss on them."""
    done = step / plan.steps
    if done > plan.wide_from and step % 3 == 0:
        wide = window_batch(scenes, plan.wide_batch, plan.wide_px, WIDE_KINDS, model.rng)
        return augmented(wide, 0.3, model.rng), 0.0
    centred = round(plan.batch * (0.7 - 0.45 * min(1.0, done / 0.5)))
    parts = [centred_batch(crops, centred, model.rng)]
    parts.append(window_batch(scenes, plan.batch - centred, CROP_PX, CROP_KINDS, model.rng))
    return augmented(join(parts), 0.5 if done < 0.5 else 0.4, model.rng), 0.6


def compile_hot_paths() -> None:
    """Fuse what is run most; about a minute the first time on a machine, then cached."""
    towers.block = torch.compile(towers.block, dynamic=False)
    towers.mlp = torch.compile(towers.mlp, dynamic=False)
    globals()["log_mean_exp"] = torch.compile(log_mean_exp, dynamic=False)


def train_clip(
    crops: Crops, scenes: Scenes, folder: Path, seed: int, plan: ClipPlan
) -> ClipTrainer:
    """Train from nothing and write the folder that open_clip loads."""
    model = ClipTrainer(folder, seed)
    opts = towers.optimisers(
        [model.clip.visual.transformer.resblocks], [model.clip, model.heads], plan.rate
    )
    opts[1].add_param_group({"params": [model.log_scales], "weight_decay": 0.0})
    began = time.perf_counter()
    for step in range(plan.steps):
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = plan.rate * towers.rate_factor(step, plan.steps)
        batch, weight = next_batch(model, crops, scenes, plan, step)
        features = towers.vision_features(model.clip.visual, batch.images)
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
