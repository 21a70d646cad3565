"""Colours, textures and backgrounds of the drawn scenes; images are float32 (H, W, 3) in 0..255."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatImage = NDArray[np.float32]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.995, 0.88, 0.82),
    "orange": (0.075, 0.95, 0.97),
    "yellow": (0.150, 0.90, 0.97),
    "green": (0.345, 0.80, 0.62),
    "cyan": (0.500, 0.80, 0.86),
    "blue": (0.620, 0.85, 0.82),
    "purple": (0.765, 0.72, 0.66),
    "pink": (0.910, 0.50, 0.98),
}
"""Mean hue (0 to 1), saturation and value of each colour; every object varies around them."""
PATTERNS: tuple[str, ...] = ("solid", "striped", "dotted", "checkered")
BACKGROUNDS: tuple[str, ...] = ("plain", "gradient", "cloud", "striped", "dotted", "checked")


def _rgb(hue: float, saturation: float, value: float) -> FloatImage:
    """Convert HSV in [0, 1] to RGB (3,), float32 in 0..255."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(saturation, 1.0), min(value, 1.0))
    return np.array(rgb, dtype=np.float32) * 255.0


def object_colour(colour: str, rng: np.random.Generator) -> FloatImage:
    """Return a random variation of a named colour: RGB (3,), float32 in 0..255."""
    hue, saturation, value = COLOURS[colour]
    return _rgb(
        hue + rng.uniform(-0.014, 0.014),
        saturation * rng.uniform(0.88, 1.06),
        value * rng.uniform(0.88, 1.05),
    )


def pattern_weight(
    pattern: str, size_hw: tuple[int, int], period_px: float, rng: np.random.Generator
) -> FloatImage:
    """Return the weight of a pattern's second tone: (H, W), float32 in [0, 1].

    Args:
        pattern: one of `PATTERNS`, or "checked" (the same as "checkered").
        size_hw: size of the tile.
        period_px: period of the pattern, at least 2.
        rng: for direction and phase.
    """
    height, width = size_hw
    if pattern == "solid":
        return np.zeros((height, width), dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    spread = np.pi if pattern == "striped" else 0.3
    angle = rng.uniform(-spread / 2, spread / 2)
    phase_u, phase_v = rng.uniform(0, 2 * np.pi, 2)
    wave = 2 * np.pi / period_px
    u = wave * (np.cos(angle) * x + np.sin(angle) * y) + phase_u
    v = wave * (-np.sin(angle) * x + np.cos(angle) * y) + phase_v
    # Divided by the slope of the wave at its zero crossing, so that edges are one pixel wide.
    if pattern == "striped":
        field = np.sin(u) / wave
    elif pattern == "dotted":
        field = (np.cos(u) + np.cos(v) - 0.75) / wave
    else:
        field = np.sin(u) * np.sin(v) * 1.6 / wave
    return np.clip(field + 0.5, 0.0, 1.0).astype(np.float32)


def object_texture(
    colour: str,
    pattern: str,
    size_px: int,
    radius_px: float,
    rng: np.random.Generator,
) -> FloatImage:
    """Return the shaded surface of an object, before its silhouette is applied.

    Returns:
        (size_px, size_px, 3), float32, about 0..255.
    """
    base = object_colour(colour, rng)
    light = rng.random() < 0.5
    other = base + ((255.0 if light else 18.0) - base) * rng.uniform(0.5, 0.72)
    # In proportion to the object, with a minimum that is visible in the patches of a small crop.
    period = max(rng.uniform(0.42, 0.62) * radius_px, 4.5)
    if pattern == "checkered":
        period *= 1.25
    weight = pattern_weight(pattern, (size_px, size_px), period, rng)[..., None]
    surface = base * (1 - weight) + other * weight
    axis = (np.arange(size_px, dtype=np.float32) - size_px / 2) / max(radius_px, 1.0)
    angle = rng.uniform(0, 2 * np.pi)
    shade = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    return surface * (1.0 + rng.uniform(0.0, 0.2) * np.clip(shade, -1, 1))[..., None]


def _cloud(size_hw: tuple[int, int], rng: np.random.Generator) -> FloatImage:
    """Return smooth noise of two octaves (H, W), float32 in [0, 1]."""
    height, width = size_hw
    total = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((3, 1.0), (7, 0.5)):
        seeds = rng.random((cells, cells)).astype(np.float32)
        tile = Image.fromarray(seeds).resize((width, height), Image.Resampling.BICUBIC)
        total += weight * np.asarray(tile)
    return np.clip(total / 1.5, 0.0, 1.0)


def background(size_hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.floating]:
    """Return a background of muted colours (H, W, 3) in 0..255."""
    height, width = size_hw
    kind = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    hue, value = rng.random(), rng.uniform(0.25, 0.95)
    first = _rgb(hue, rng.uniform(0.0, 0.35), value)
    second = _rgb(
        hue + rng.uniform(-0.15, 0.15),
        rng.uniform(0.0, 0.35),
        np.clip(value + rng.choice([-1, 1]) * rng.uniform(0.08, 0.28), 0.1, 1.0),
    )
    if kind == "plain":
        weight = np.zeros((height, width), dtype=np.float32)
    elif kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        weight = np.clip(0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y), 0, 1)
    elif kind == "cloud":
        weight = _cloud(size_hw, rng)
    else:
        weight = pattern_weight(kind, size_hw, rng.uniform(0.08, 0.3) * min(size_hw), rng)
    weight = weight[..., None].astype(np.float32)
    return first * (1 - weight) + second * weight
