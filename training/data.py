"""Pools of drawn pictures, and batches cut from them without a Python loop over images.

Attribute triples are (shape, colour, pattern) indices; -1 means "no such object".
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.demo.paint import COLOURS, PATTERNS
from jobs.demo.scenes import DrawnObject, draw_crop, draw_objects
from jobs.demo.shapes import SHAPES

MAX_OBJECTS = 6
SCENE_HW = (128, 160)
CROP_PX = 48
_COLOUR_NAMES = tuple(COLOURS)


def attributes(drawn: DrawnObject) -> tuple[int, int, int]:
    """A drawn's words as (shape, colour, pattern) indices."""
    return (
        SHAPES.index(drawn.shape),
        _COLOUR_NAMES.index(drawn.colour),
        PATTERNS.index(drawn.pattern),
    )


@dataclass
class Crops:
    """Centred crops: images (N, 3, 48, 48) uint8, attrs (N, 3) int64."""

    images: Tensor
    attrs: Tensor


@dataclass
class Scenes:
    """Crowded scenes with what the caption writer knows of them.

    Attributes:
        images: (M, 3, H, W) uint8; halves: the same at half size.
        instances: (M, H, W) uint8, 0 background, k object k.
        attrs: (M, 6, 3) int64. boxes: (M, 6, 4) float32 y0 x0 y1 x1 of the visible part.
        areas: (M, 6) float32 visible pixels, 0 where there is no object.
    """

    images: Tensor
    halves: Tensor
    instances: Tensor
    attrs: Tensor
    boxes: Tensor
    areas: Tensor


def _crop_chunk(task: tuple[int, int, bool]) -> tuple[np.ndarray, np.ndarray]:
    seed, count, held_out = task
    rng = np.random.default_rng([seed, 1])
    drawn = [draw_crop(rng, CROP_PX, held_out) for _ in range(count)]
    images = np.stack([image for image, _ in drawn]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.array([attributes(t) for _, t in drawn])


def _scene_chunk(task: tuple[int, int, bool]) -> tuple[np.ndarray, ...]:
    seed, count, held_out = task
    rng = np.random.default_rng([seed, 2])
    height, width = SCENE_HW
    images = np.empty((count, 3, height, width), np.uint8)
    instances = np.empty((count, height, width), np.uint8)
    attrs = np.full((count, MAX_OBJECTS, 3), -1)
    boxes = np.zeros((count, MAX_OBJECTS, 4), np.float32)
    areas = np.zeros((count, MAX_OBJECTS), np.float32)
    for i in range(count):
        image, instances[i], objects = draw_objects(
            rng, SCENE_HW, int(rng.integers(1, MAX_OBJECTS + 1)), held_out
        )
        images[i] = image.transpose(2, 0, 1)
        for k, drawn in enumerate(objects):
            rows, cols = np.nonzero(instances[i] == k + 1)
            if len(rows):
                attrs[i, k] = attributes(drawn)
                boxes[i, k] = rows.min(), cols.min(), rows.max() + 1, cols.max() + 1
                areas[i, k] = len(rows)
    return images, instances, attrs, boxes, areas


def _in_chunks(
    function: Callable, seed: int, count: int, held_out: bool, chunk: int
) -> list[np.ndarray]:
    tasks = [(seed * 100_003 + i, chunk, held_out) for i in range(count // chunk)]
    with ProcessPoolExecutor(2) as pool:
        parts = list(pool.map(function, tasks))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def make_crops(seed: int, count: int, held_out: bool = False) -> Crops:
    """Draw ``count`` centred crops (a multiple of 250)."""
    images, attrs = _in_chunks(_crop_chunk, seed, count, held_out, 250)
    return Crops(torch.from_numpy(images), torch.from_numpy(attrs))


def make_scenes(seed: int, count: int, held_out: bool = False) -> Scenes:
    """Draw ``count`` scenes (a multiple of 50)."""
    images, instances, attrs, boxes, areas = (
        torch.from_numpy(a) for a in _in_chunks(_scene_chunk, seed, count, held_out, 50)
    )
    halves = F.avg_pool2d(images.float(), 2).round().to(torch.uint8)
    return Scenes(images, halves, instances, attrs, boxes, areas)


def cut(images: Tensor, boxes: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """Resample one window per image to a square.

    Args:
        images: (B, C, H, W) float.
        boxes: (B, 4) y0 x0 y1 x1 as fractions of the image.
        size: side of the result.
        mode: "bilinear" or "nearest".

    Returns:
        (B, C, size, size) float; outside the image the border is repeated.
    """
    step = (torch.arange(size) + 0.5) / size
    ys = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * step
    xs = boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * step
    grid = torch.stack(
        [xs[:, None, :].expand(-1, size, -1), ys[:, :, None].expand(-1, -1, size)], dim=-1
    )
    return F.grid_sample(
        images, grid * 2 - 1, mode=mode, padding_mode="border", align_corners=False
    )


def cut_scenes(scenes: Scenes, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Windows of scenes, (B, 3, size, size) float in [0, 1]; wide windows use the half-size copy.

    Args:
        scenes: the pool.
        index: (B,) scene of each window.
        boxes: (B, 4) y0 x0 y1 x1 in pixels.
        size: side of the result.
    """
    height, width = SCENE_HW
    relative = boxes / torch.tensor([height, width, height, width], dtype=torch.float32)
    out = torch.empty(len(index), 3, size, size)
    wide = (boxes[:, 2] - boxes[:, 0]) > 1.8 * size
    for source, chosen in ((scenes.images, ~wide), (scenes.halves, wide)):
        if chosen.any():
            out[chosen] = cut(source[index[chosen]].float(), relative[chosen], size)
    return out / 255.0


def _uniform(rng: torch.Generator, low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng)


def draw_windows(
    scenes: Scenes, count: int, rng: torch.Generator, kinds: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose windows: 0 around an object, 1 part of an object, 2 anywhere, 3 the whole scene.

    Args:
        scenes: the pool.
        count: windows wanted.
        rng: draws everything.
        kinds: (4,) probabilities.

    Returns:
        index (B,), boxes (B, 4) pixels, target (B,) the object a window was centred on or -1.
    """
    height, width = SCENE_HW
    index = torch.randint(len(scenes.images), (count,), generator=rng)
    kind = torch.multinomial(kinds, count, replacement=True, generator=rng)
    target = torch.multinomial((scenes.areas[index] > 0).float() + 1e-9, 1, generator=rng)[:, 0]
    box = scenes.boxes[index, target]
    extent = torch.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]).clamp_min(16)
    side = extent * torch.where(
        kind == 0, _uniform(rng, 1.0, 2.0, count), _uniform(rng, 0.6, 1.0, count)
    )
    side = torch.where(kind == 2, _uniform(rng, 20, 120, count), side)
    jitter = side * torch.where(kind == 0, 0.08, 0.25)
    centre_y = (box[:, 0] + box[:, 2]) / 2 + jitter * _uniform(rng, -1, 1, count)
    centre_x = (box[:, 1] + box[:, 3]) / 2 + jitter * _uniform(rng, -1, 1, count)
    centre_y = torch.where(kind == 2, _uniform(rng, 0, height, count), centre_y)
    centre_x = torch.where(kind == 2, _uniform(rng, 0, width, count), centre_x)
    # Half of the windows are up to a third wider than high: some methods squash the image first.
    aspect = torch.where(torch.rand(count, generator=rng) < 0.5, _uniform(rng, 0.9, 1.35, count), 1)
    tall = side.clamp(max=float(height))
    wide = (side * aspect).clamp(max=float(width))
    y0 = (centre_y - tall / 2).clamp(min=torch.zeros(()), max=height - tall)
    x0 = (centre_x - wide / 2).clamp(min=torch.zeros(()), max=width - wide)
    boxes = torch.stack([y0, x0, y0 + tall, x0 + wide], dim=1)
    boxes[kind == 3] = torch.tensor([0.0, 0.0, height, width])
    return index, boxes, torch.where(kind <= 1, target, torch.full_like(target, -1))


def visible_share(scenes: Scenes, index: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each window each object fills, and how much of the object is inside.

    Returns:
        fill (B, 6) and inside (B, 6), both in [0, 1].
    """
    height, width = SCENE_HW
    grid = 32
    relative = boxes / torch.tensor([height, width, height, width], dtype=torch.float32)
    maps = cut(scenes.instances[index][:, None].float(), relative, grid, "nearest").long()
    fill = F.one_hot(maps.view(len(index), -1), MAX_OBJECTS + 1).float().mean(1)[:, 1:]
    window_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    inside = fill * window_area[:, None] / scenes.areas[index].clamp_min(1)
    return fill, inside.clamp(max=1.0)
