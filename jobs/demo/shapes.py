"""Outlines of the twelve shapes of the drawn scenes, and their anti-aliased silhouettes.

An outline is upright in the square [-1, 1] x [-1, 1], with y downwards. Its polygons are drawn in
order; one with `fill` 0 is a hole in those before it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]
Outline = tuple[tuple[Points, int], ...]

SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "crescent",
    "arrow",
    "fish",
    "house",
    "mushroom",
)

_SUPERSAMPLE = 4
"""Sub-pixels per side: 16 grey levels at an edge, finer than the noise that is added later."""


def _ellipse(
    radius_x: float,
    radius_y: float,
    centre: tuple[float, float] = (0.0, 0.0),
    span: tuple[float, float] = (0.0, 2 * np.pi),
) -> Points:
    """Return 48 points (x, y) on an elliptic arc."""
    angle = np.linspace(span[0], span[1], 48)
    x = centre[0] + radius_x * np.cos(angle)
    y = centre[1] + radius_y * np.sin(angle)
    return np.stack([x, y], axis=1)


def _polygon(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=np.float64)


def _star() -> Points:
    angle = -np.pi / 2 + np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) + 0.06], axis=1)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 17, (y - 2.5) / 16], axis=1)


def _cross() -> Points:
    a = 0.34
    return _polygon(
        *[(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)],
        *[(a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)],
    )


def _fish() -> Outline:
    body = _ellipse(0.72, 0.55, (-0.28, 0.0))
    tail = _polygon((0.2, 0.0), (1.0, -0.62), (0.82, 0.0), (1.0, 0.62))
    fin = _polygon((-0.5, -0.45), (0.05, -0.85), (0.15, -0.35))
    return ((body, 1), (tail, 1), (fin, 1))


def _house() -> Outline:
    walls = _polygon((-0.7, -0.1), (0.7, -0.1), (0.7, 0.95), (-0.7, 0.95))
    roof = _polygon((-1.0, -0.05), (0.0, -0.95), (1.0, -0.05))
    chimney = _polygon((0.4, -0.9), (0.68, -0.9), (0.68, -0.3), (0.4, -0.3))
    door = _polygon((-0.18, 0.95), (-0.18, 0.4), (0.18, 0.4), (0.18, 0.95))
    return ((walls, 1), (roof, 1), (chimney, 1), (door, 0))


def _mushroom() -> Outline:
    cap = _ellipse(1.0, 0.98, (0.0, 0.1), (np.pi, 2 * np.pi))
    stem = _polygon((-0.3, 0.05), (0.3, 0.05), (0.42, 0.95), (-0.42, 0.95))
    return ((cap, 1), (stem, 1))


@cache
def outline(shape: str) -> Outline:
    """Return the polygons of a shape in [-1, 1] x [-1, 1], each with its fill (1 or 0).

    Raises:
        KeyError: the shape is not one of `SHAPES`.
    """
    simple: dict[str, Outline] = {
        "circle": ((_ellipse(0.95, 0.95), 1),),
        "square": ((_polygon((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)), 1),),
        "triangle": ((_polygon((0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)), 1),),
        "star": ((_star(), 1),),
        "heart": ((_heart(), 1),),
        "cross": ((_cross(), 1),),
        "ring": ((_ellipse(0.98, 0.98), 1), (_ellipse(0.52, 0.52), 0)),
        "crescent": ((_ellipse(0.95, 0.95), 1), (_ellipse(0.78, 0.78, (0.48, -0.08)), 0)),
        "arrow": (
            (
                _polygon(
                    *[(-1.0, -0.3), (0.1, -0.3), (0.1, -0.8), (1.0, 0.0)],
                    *[(0.1, 0.8), (0.1, 0.3), (-1.0, 0.3)],
                ),
                1,
            ),
        ),
        "fish": _fish(),
        "house": _house(),
        "mushroom": _mushroom(),
    }
    return simple[shape]


def silhouette(
    shape: str, size_px: int, radius_px: float, angle_rad: float, aspect: float = 1.0
) -> NDArray[np.float32]:
    """Return the coverage of a shape centred in a square tile: (size_px, size_px), float32, 0 to 1.

    Args:
        shape: one of `SHAPES`.
        size_px: side of the tile.
        radius_px: half the side of the square that the outline fills.
        angle_rad: rotation, clockwise on the screen.
        aspect: width / height; the area stays the same.
    """
    side = size_px * _SUPERSAMPLE
    tile = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(tile)
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    rotation = np.array([[cos, sin], [-sin, cos]])
    stretch = np.array([aspect**0.5, aspect**-0.5])
    for points, fill in outline(shape):
        placed = (points * stretch) @ rotation * (radius_px * _SUPERSAMPLE) + side / 2
        pen.polygon(placed.ravel().tolist(), fill=255 * fill)
    return np.asarray(tile.reduce(_SUPERSAMPLE), dtype=np.float32) / 255.0
