"""Drawn scenes of coloured, patterned shapes with exact label maps.

12 shapes x 8 colours x 4 patterns give 384 phrases such as "red striped star". 14 of the 96
colour-shape pairs (`HELD_OUT_PAIRS`) never occur in the training of the embedded models, which
shows whether a model composes words. A scene depends on its seed and arguments only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from jobs.demo.paint import COLOURS, PATTERNS, background, object_texture
from jobs.demo.shapes import SHAPES, silhouette

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (tuple(COLOURS)[(3 * i + 1 + i // 8) % len(COLOURS)], SHAPES[i % len(SHAPES)])
    for i in range(14)
)
"""(colour, shape); each shape once, two of them twice, each colour once or twice."""
_MAX_ROTATION_RAD = 0.3
"""About 17 degrees: most objects in photographs are upright."""


@dataclass(frozen=True)
class DrawnObject:
    """One drawn object: its three words and its position."""

    colour: str
    pattern: str
    shape: str
    centre_yx: tuple[float, float] = (0.0, 0.0)
    radius_px: float = 0.0

    @property
    def phrase(self) -> str:
        """The words as a label: "red striped star"."""
        return f"{self.colour} {self.pattern} {self.shape}"


@dataclass(frozen=True)
class Layout:
    """Sizes and positions of objects. The defaults are those of the embedded models' training.

    Attributes:
        radii: smallest and largest radius as shares of the scene's short side; None: 0.13 to 0.34
            for one or two objects, to 0.27 for more.
        min_visible: share (approximate) of each object that later objects leave visible.
        beside: range of the distance to an earlier object, in sums of the two radii (below 1 they
            overlap); None: anywhere.
        attempts: positions tried for an object before it is left out.
    """

    radii: tuple[float, float] | None = None
    min_visible: float = 0.4
    beside: tuple[float, float] | None = None
    attempts: int = 10


@dataclass(frozen=True)
class Scene:
    """A drawn image with its truth.

    Attributes:
        image: (H, W, 3), uint8 RGB.
        label_map: (H, W), int16; 0 is background, k the phrase `labels[k - 1]`.
        labels: the phrases of visible objects, each once, in drawing order.
        instances: (H, W), uint8; 0 is background, k the k-th object, in drawing order.
    """

    image: NDArray[np.uint8]
    label_map: NDArray[np.int16]
    labels: tuple[str, ...]
    instances: NDArray[np.uint8]


def all_phrases(held_out: bool | None = None) -> tuple[str, ...]:
    """Return the phrases that objects can have.

    Args:
        held_out: None: all 384; True: those of held-out pairs; False: the others.
    """
    return tuple(
        f"{colour} {pattern} {shape}"
        for shape in SHAPES
        for colour in COLOURS
        for pattern in PATTERNS
        if held_out is None or ((colour, shape) in HELD_OUT_PAIRS) == held_out
    )


def random_object(
    rng: np.random.Generator, held_out: bool, colour: str | None = None
) -> DrawnObject:
    """Return an object with random words and no position.

    Args:
        rng: for pair and pattern.
        held_out: the colour-shape pair is a held-out one; else it is not.
        colour: None: any.
    """
    pairs = [
        (c, s)
        for c in COLOURS
        for s in SHAPES
        if ((c, s) in HELD_OUT_PAIRS) == held_out and colour in (None, c)
    ]
    pair = pairs[rng.integers(len(pairs))]
    return DrawnObject(pair[0], PATTERNS[rng.integers(len(PATTERNS))], pair[1])


def _place(canvas: NDArray[np.float32], drawn: DrawnObject, rng: np.random.Generator) -> NDArray:
    """Draw an object with a soft shadow onto the canvas (changed in place).

    Returns:
        (H, W) bool, the pixels that the object covers.
    """
    height, width = canvas.shape[:2]
    tile_px = 2 * int(np.ceil(drawn.radius_px * 1.5)) + 4
    angle_rad = rng.uniform(-_MAX_ROTATION_RAD, _MAX_ROTATION_RAD)
    aspect = rng.uniform(0.88, 1.14)
    alpha = silhouette(drawn.shape, tile_px, drawn.radius_px, angle_rad, aspect)
    texture = object_texture(drawn.colour, drawn.pattern, tile_px, drawn.radius_px, rng)
    if rng.random() < 0.5:
        alpha = alpha[:, ::-1]
    top = round(drawn.centre_yx[0] - tile_px / 2)
    left = round(drawn.centre_yx[1] - tile_px / 2)
    shift = max(1, round(0.12 * drawn.radius_px))
    blurred = Image.fromarray((alpha * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(shift)
    )
    shadow = np.asarray(blurred, dtype=np.float32)[..., None] * (rng.uniform(0.1, 0.45) / 255.0)
    _blend(canvas, shadow, 20.0, (top + shift, left + shift))
    _blend(canvas, alpha[..., None], texture, (top, left))
    covered = np.zeros((height, width, 1), dtype=np.float32)
    _blend(covered, alpha[..., None], 1.0, (top, left))
    return covered[..., 0] > 0.5


def _blend(
    canvas: NDArray[np.float32],
    weight: NDArray[np.float32],
    value: NDArray[np.float32] | float,
    corner_yx: tuple[int, int],
) -> None:
    """Blend a tile into the canvas (changed in place); parts outside are cropped."""
    y0, x0 = max(corner_yx[0], 0), max(corner_yx[1], 0)
    y1 = min(corner_yx[0] + weight.shape[0], canvas.shape[0])
    x1 = min(corner_yx[1] + weight.shape[1], canvas.shape[1])
    if y1 <= y0 or x1 <= x0:
        return
    inside = np.s_[y0 - corner_yx[0] : y1 - corner_yx[0], x0 - corner_yx[1] : x1 - corner_yx[1]]
    w = weight[inside]
    paint = value[inside] if isinstance(value, np.ndarray) else value
    canvas[y0:y1, x0:x1] += w * (paint - canvas[y0:y1, x0:x1])


def _finish(canvas: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add a slight blur and sensor noise; float32 (H, W, 3) to uint8."""
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(1.0, 7.0)
    return np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255).astype(np.uint8)


def _hides_too_much(
    instances: NDArray, areas: list[int], centre: tuple, radius: float, min_visible: float
) -> bool:
    """Whether a disc would leave less than `min_visible` of an earlier object visible."""
    y0, y1 = max(int(centre[0] - radius), 0), int(centre[0] + radius) + 1
    x0, x1 = max(int(centre[1] - radius), 0), int(centre[1] + radius) + 1
    visible = np.bincount(instances.ravel(), minlength=len(areas) + 1)
    hidden = np.bincount(instances[y0:y1, x0:x1].ravel(), minlength=len(areas) + 1) * 0.8
    return any(visible[k + 1] - hidden[k + 1] < min_visible * area for k, area in enumerate(areas))


def _candidate(
    rng: np.random.Generator, size_hw: tuple[int, int], objects: list[DrawnObject], layout: Layout
) -> tuple[tuple[float, float], float]:
    """Return a random centre and radius, whether or not there is room."""
    height, width = size_hw
    smallest, largest = layout.radii or (0.13, 0.34)
    radius = rng.uniform(smallest, largest) * min(height, width)
    margin = 0.7 * radius
    if layout.beside is None or not objects:
        return (rng.uniform(margin, height - margin), rng.uniform(margin, width - margin)), radius
    other = objects[rng.integers(len(objects))]
    distance = rng.uniform(*layout.beside) * (radius + other.radius_px)
    direction = rng.uniform(0, 2 * np.pi)
    y = other.centre_yx[0] + distance * np.sin(direction)
    x = other.centre_yx[1] + distance * np.cos(direction)
    inside = [
        float(min(max(value, margin), side - margin)) for value, side in ((y, height), (x, width))
    ]
    return (inside[0], inside[1]), radius


def draw_objects(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    num_objects: int,
    held_out: bool,
    layout: Layout | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[DrawnObject, ...]]:
    """Draw a scene of several objects.

    Returns:
        Image (H, W, 3), uint8; instance map (H, W), uint8, k for `objects[k - 1]`; the objects,
        fewer than `num_objects` if there is no room.
    """
    layout = layout or Layout()
    if layout.radii is None:
        layout = replace(layout, radii=(0.13, 0.34 if num_objects <= 2 else 0.27))
    canvas = np.ascontiguousarray(background(size_hw, rng))
    instances = np.zeros(size_hw, dtype=np.uint8)
    areas: list[int] = []
    objects: list[DrawnObject] = []
    # In some scenes all objects have one colour, so that only their shapes differ.
    colour = random_object(rng, held_out).colour if rng.random() < 0.15 else None
    for _ in range(num_objects):
        words = random_object(rng, held_out, colour)
        for _attempt in range(layout.attempts):
            centre, radius = _candidate(rng, size_hw, objects, layout)
            if not _hides_too_much(instances, areas, centre, radius, layout.min_visible):
                break
        else:
            continue
        drawn = DrawnObject(words.colour, words.pattern, words.shape, centre, radius)
        covered = _place(canvas, drawn, rng)
        objects.append(drawn)
        instances[covered] = len(objects)
        areas.append(max(int(covered.sum()), 1))
    return _finish(canvas, rng), instances, tuple(objects)


def draw_scene(
    seed: int,
    size_hw: tuple[int, int] = (128, 160),
    num_objects: int | None = None,
    held_out: bool = False,
    layout: Layout | None = None,
) -> Scene:
    """Draw one scene; the same seed and arguments give the same bytes.

    Args:
        seed: any non-negative integer.
        size_hw: height and width, 32 or more each.
        num_objects: number of objects, fewer if there is no room; None: 1 to 6 at random.
        held_out: all objects are of held-out colour-shape pairs; else none is.
        layout: sizes and positions; None: as in training.
    """
    rng = np.random.default_rng([seed, int(held_out)])
    count = int(rng.integers(1, 7)) if num_objects is None else num_objects
    image, instances, objects = draw_objects(rng, size_hw, count, held_out, layout)
    labels: dict[str, int] = {}
    table = np.zeros(len(objects) + 1, dtype=np.int16)
    shown = set(np.unique(instances).tolist())
    for k, drawn in enumerate(objects, start=1):
        if k in shown:
            table[k] = labels.setdefault(drawn.phrase, len(labels) + 1)
    return Scene(image, table[instances], tuple(labels), instances)


def draw_crop(
    rng: np.random.Generator, size_px: int = 48, held_out: bool = False
) -> tuple[NDArray[np.uint8], DrawnObject]:
    """Draw one object near the centre of a background.

    Returns:
        Image (size_px, size_px, 3), uint8; the object, whose radius is 22 to 46 % of the side.
    """
    canvas = np.ascontiguousarray(background((size_px, size_px), rng))
    words = random_object(rng, held_out)
    radius = rng.uniform(0.22, 0.46) * size_px
    reach = 0.08 * size_px
    centre = (size_px / 2 + rng.uniform(-reach, reach), size_px / 2 + rng.uniform(-reach, reach))
    drawn = DrawnObject(words.colour, words.pattern, words.shape, centre, radius)
    _place(canvas, drawn, rng)
    return _finish(canvas, rng), drawn
