"""Pools of drawn images, windows cropped from them as whole batches, and augmentation.

Attributes are triples of (shape, colour, pattern) indices; -1: no object. Shapes: B windows, C
channels, H W pixels, N crops and M scenes of a pool, 6 objects per scene at most.
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
    """Return an object's (shape, colour, pattern) indices."""
    return (
        SHAPES.index(drawn.shape),
        _COLOUR_NAMES.index(drawn.colour),
        PATTERNS.index(drawn.pattern),
    )


@dataclass
class Crops:
    """Images of one object each: images (N, 3, 48, 48), uint8; attrs (N, 3), int64."""

    images: Tensor
    attrs: Tensor


@dataclass
class Scenes:
    """Scenes of several objects, with what captions are made from.

    Attributes:
        images: (M, 3, H, W), uint8.
        halves: the images at half size.
        instances: (M, H, W), uint8; 0 is background, k object k.
        attrs: (M, 6, 3), int64.
        boxes: (M, 6, 4), float32: y0 x0 y1 x1 of the visible part in pixels.
        areas: (M, 6), float32: visible pixels, 0 without an object.
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
    """Draw `count` images of one object (a multiple of 250)."""
    images, attrs = _in_chunks(_crop_chunk, seed, count, held_out, 250)
    return Crops(torch.from_numpy(images), torch.from_numpy(attrs))


def make_scenes(seed: int, count: int, held_out: bool = False) -> Scenes:
    """Draw `count` scenes (a multiple of 50)."""
    images, instances, attrs, boxes, areas = (
        torch.from_numpy(a) for a in _in_chunks(_scene_chunk, seed, count, held_out, 50)
    )
    halves = F.avg_pool2d(images.float(), 2).round().to(torch.uint8)
    return Scenes(images, halves, instances, attrs, boxes, areas)


def crop_windows(images: Tensor, boxes: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """Crop one window per image and resize it to a square.

    Args:
        images: (B, C, H, W) float.
        boxes: (B, 4) y0 x0 y1 x1 as shares of the image.
        size: side of the result.
        mode: "bilinear" or "nearest".

    Returns:
        (B, C, size, size) float; border pixels are repeated outside the image.
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


def crop_scenes(scenes: Scenes, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop windows of scenes: (B, 3, size, size) in [0, 1]; large ones from the half-size copy.

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
            out[chosen] = crop_windows(source[index[chosen]].float(), relative[chosen], size)
    return out / 255.0


def _uniform(rng: torch.Generator, low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng)


def draw_windows(
    scenes: Scenes, count: int, rng: torch.Generator, kinds: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw random windows of four kinds.

    Args:
        scenes: the pool.
        count: number of windows.
        rng: for all draws.
        kinds: (4,) probabilities of: around an object, part of an object, anywhere, whole scene.

    Returns:
        index (B,) of the scene; boxes (B, 4) in pixels; target (B,): the object at the window's
        centre or -1.
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
    # Half of the windows are up to a third wider than high, as some methods squash images.
    aspect = torch.where(torch.rand(count, generator=rng) < 0.5, _uniform(rng, 0.9, 1.35, count), 1)
    tall = side.clamp(max=float(height))
    wide = (side * aspect).clamp(max=float(width))
    y0 = (centre_y - tall / 2).clamp(min=torch.zeros(()), max=height - tall)
    x0 = (centre_x - wide / 2).clamp(min=torch.zeros(()), max=width - wide)
    boxes = torch.stack([y0, x0, y0 + tall, x0 + wide], dim=1)
    boxes[kind == 3] = torch.tensor([0.0, 0.0, height, width])
    return index, boxes, torch.where(kind <= 1, target, torch.full_like(target, -1))


def visible_share(scenes: Scenes, index: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much of each window each object fills, and how much of the object is inside.

    Returns:
        fill (B, 6) and inside (B, 6), both in [0, 1].
    """
    height, width = SCENE_HW
    grid = 32
    relative = boxes / torch.tensor([height, width, height, width], dtype=torch.float32)
    maps = crop_windows(scenes.instances[index][:, None].float(), relative, grid, "nearest").long()
    fill = F.one_hot(maps.view(len(index), -1), MAX_OBJECTS + 1).float().mean(1)[:, 1:]
    window_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    inside = fill * window_area[:, None] / scenes.areas[index].clamp_min(1)
    return fill, inside.clamp(max=1.0)


def shift_and_flip(images: Tensor, rng: torch.Generator, reach_px: int = 3) -> Tensor:
    """Shift each image (border pixels are repeated) and flip half of them.

    Args:
        images: (B, C, H, W) float.
        rng: for shifts and flips.
        reach_px: largest shift.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, [reach_px] * 4, mode="replicate")
    dy = torch.randint(2 * reach_px + 1, (count, 1), generator=rng)
    dx = torch.randint(2 * reach_px + 1, (count, 1), generator=rng)
    rows = dy + torch.arange(height)
    columns = dx + torch.arange(width)
    mirror = torch.rand(count, 1, generator=rng) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def light_and_noise(images: Tensor, rng: torch.Generator, strength: float = 1.0) -> Tensor:
    """Change brightness and contrast and add noise; (B, 3, H, W) in [0, 1]."""
    count = len(images)
    contrast = 1 + 0.25 * strength * (2 * torch.rand(count, 1, 1, 1, generator=rng) - 1)
    bright = 0.12 * strength * (2 * torch.rand(count, 1, 1, 1, generator=rng) - 1)
    sigma = 0.03 * strength * torch.rand(count, 1, 1, 1, generator=rng)
    noise = torch.randn(images.shape, generator=rng) * sigma
    return ((images - 0.5) * contrast + 0.5 + bright + noise).clamp_(0, 1)


def channel_mix(images: Tensor, mixed: Tensor, rng: torch.Generator) -> Tensor:
    """Give some images false colours: a random 3 x 3 mix, one in five grey, some inverted.

    This decorrelates colour and shape; without it, a colour that never occurred with a shape counts
    against that shape, and held-out pairs fail.

    Args:
        images: (B, 3, H, W) in [0, 1].
        mixed: (B,) bool: which images.
        rng: for the mixes.
    """
    count = len(images)
    matrix = torch.randn(count, 3, 3, generator=rng)
    grey = torch.rand(count, generator=rng) < 0.2
    matrix = torch.where(grey[:, None, None], matrix[:, :1].expand(-1, 3, -1), matrix)
    matrix = matrix / matrix.abs().sum(2, keepdim=True)
    gain = 0.8 + 0.6 * torch.rand(count, 1, 1, generator=rng)
    mean = images.mean((2, 3), keepdim=True)
    out = torch.einsum("bij,bjhw->bihw", matrix * gain, images - mean)
    out = (out + 0.3 + 0.4 * torch.rand(count, 3, 1, 1, generator=rng)).clamp_(0, 1)
    return torch.where(mixed[:, None, None, None], out, images)
