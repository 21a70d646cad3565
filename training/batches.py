"""Batches for the contrastive training: pictures, the words true of them, and two captions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.demo.paint import COLOURS
from jobs.demo.scenes import HELD_OUT_PAIRS
from jobs.demo.shapes import SHAPES
from training.augment import channel_mix, light_and_noise, shift_and_flip
from training.data import MAX_OBJECTS, Crops, Scenes, cut_scenes, draw_windows, visible_share

HELD_OUT = torch.zeros(len(SHAPES), len(COLOURS), dtype=torch.bool)
for _colour, _shape in HELD_OUT_PAIRS:
    HELD_OUT[SHAPES.index(_shape), tuple(COLOURS).index(_colour)] = True


@dataclass
class Batch:
    """Pictures and what may be said of them.

    Attributes:
        images: (B, 3, S, S) in [0, 1].
        visible: (B, 6, 3) attributes of the objects to be seen, -1 where none.
        named: (2, B, 3) the objects of the two captions.
        empty: (B,) no object to be seen.
        known: (B,) the colours are true (not channel-mixed).
    """

    images: Tensor
    visible: Tensor
    named: Tensor
    empty: Tensor
    known: Tensor


def centred_batch(crops: Crops, count: int, rng: torch.Generator) -> Batch:
    """Crops drawn with one object in the middle."""
    index = torch.randint(len(crops.images), (count,), generator=rng)
    images = shift_and_flip(crops.images[index].float() / 255.0, rng)
    visible = torch.full((count, MAX_OBJECTS, 3), -1)
    visible[:, 0] = crops.attrs[index]
    none = torch.zeros(count, dtype=torch.bool)
    return Batch(images, visible, visible[:, 0].expand(2, -1, -1), none, ~none)


def window_batch(
    scenes: Scenes, count: int, size: int, kinds: Tensor, rng: torch.Generator
) -> Batch:
    """Windows of crowded scenes; a caption names the object in the middle or any that shows.

    About one window in twelve is empty background (as many as the draw offers).
    """
    spare = 2 * count
    index, boxes, target = draw_windows(scenes, spare, rng, kinds)
    fill, inside = visible_share(scenes, index, boxes)
    total = fill.sum(1)
    worthy = (fill >= 0.03) & ((inside >= 0.4) | (fill >= 0.3))
    empty = total <= 0.004
    usable = worthy.any(1).nonzero()[:, 0]
    bare = empty.nonzero()[:, 0][: count // 12]
    chosen = torch.cat([bare, usable[: count - len(bare)]])
    chosen = chosen[torch.randperm(len(chosen), generator=rng)]
    index, boxes, fill = index[chosen], boxes[chosen], fill[chosen]
    worthy, empty, target = worthy[chosen], empty[chosen], target[chosen]
    weight = fill * worthy + 1e-9
    first = weight.argmax(1)
    row = torch.arange(len(chosen))
    centre = (target >= 0) & worthy[row, target.clamp_min(0)]
    first = torch.where(centre, target, first)
    second = torch.multinomial(worthy.float() + 1e-9, 1, generator=rng)[:, 0]
    attrs = scenes.attrs[index]
    visible = torch.where((fill >= 0.01)[..., None], attrs, torch.full_like(attrs, -1))
    images = cut_scenes(scenes, index, boxes, size)
    flip = torch.rand(len(images), generator=rng) < 0.5
    images[flip] = images[flip].flip(3)
    named = torch.stack([attrs[row, first], attrs[row, second]])
    return Batch(images, visible, named, empty, torch.ones_like(empty))


def join(parts: list[Batch]) -> Batch:
    """Concatenate batches of the same picture size."""
    return Batch(
        torch.cat([p.images for p in parts]),
        torch.cat([p.visible for p in parts]),
        torch.cat([p.named for p in parts], dim=1),
        torch.cat([p.empty for p in parts]),
        torch.cat([p.known for p in parts]),
    )


def augmented(batch: Batch, mix_share: float, rng: torch.Generator) -> Batch:
    """False colours on a share of the pictures (their colour is then unknown), light, noise."""
    mixed = torch.rand(len(batch.images), generator=rng) < mix_share
    images = light_and_noise(channel_mix(batch.images, mixed, rng), rng)
    return Batch(images, batch.visible, batch.named, batch.empty, ~mixed)


def true_of(batch: Batch, words: Tensor, caption_empty: Tensor) -> Tensor:
    """Which captions are true of which pictures, (B, J) bool; an unknown colour fits any.

    Args:
        batch: the pictures.
        words: (J, 3) named attributes, -1 where not named.
        caption_empty: (J,) bool, captions that say there is nothing.
    """
    unnamed = (words < 0)[None, None]
    agree = (batch.visible[:, :, None] == words[None, None]) | unnamed
    agree[..., 1] |= ~batch.known[:, None, None]
    there = (batch.visible[..., 0] >= 0)[:, :, None]
    spoken = (agree.all(-1) & there).any(1)
    return torch.where(caption_empty[None], batch.empty[:, None].expand_as(spoken), spoken)


def exchange_one_word(words: Tensor, rng: torch.Generator) -> Tensor:
    """A hard negative: one named word becomes another, never giving a held-out pair.

    Args:
        words: (J, 3). Rows for which the draw gives a held-out pair stay as they are (the caller
            masks out true captions).
        rng: draws place and word.
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
