"""The drawn world: scenes of coloured, patterned shapes with exact label maps.

12 shapes x 8 colours x 4 patterns give 384 phrases such as "red striped star". 14 of the 96
colour-shape pairs never occur in training (``HELD_OUT_PAIRS``): a model that names them has
composed words it never saw together. Everything is a pure function of the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from jobs.demo.paint import COLOURS, PATTERNS, background, object_texture
from jobs.demo.shapes import SHAPES, silhouette

# (colour, shape); each shape once, two of them twice, each colour once or twice.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (tuple(COLOURS)[(3 * i + 1 + i // 8) % len(COLOURS)], SHAPES[i % len(SHAPES)])
    for i in range(14)
)

# Upright within about 17 degrees, as most things in photographs are.
_MAX_TURN_RAD = 0.3


@dataclass(frozen=True)
class Thing:
    """One drawn object: three words and where it is."""

    colour: str
    pattern: str
    shape: str
    centre_yx: tuple[float, float] = (0.0, 0.0)
    radius_px: float = 0.0

    @property
    def phrase(self) -> str:
        """The words in the order of the vocabulary: "red striped star"."""
        return f"{self.colour} {self.pattern} {self.shape}"


@dataclass(frozen=True)
class Layout:
    """Where objects go. The defaults draw what the embedded models were trained on.

    Attributes:
        radii: smallest and largest radius, in short sides of the scene; None: 0.13 to 0.34 for
            one or two objects, to 0.27 for more.
        min_visible: share of every object that later ones leave to be seen, about.
        beside: distance to an earlier object in sums of the two radii, from and to (below 1 they
            overlap); None: anywhere.
        attempts: places tried for an object before it is left out.
    """

    radii: tuple[float, float] | None = None
    min_visible: float = 0.4
    beside: tuple[float, float] | None = None
    attempts: int = 10


@dataclass(frozen=True)
class Scene:
    """A drawn image with its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label_map: (H, W) int16; 0 is background, k the phrase ``labels[k - 1]``.
        labels: the phrases that are present, each once, in drawing order.
    """

    image: NDArray[np.uint8]
    label_map: NDArray[np.int16]
    labels: tuple[str, ...]


def all_phrases(held_out: bool | None = None) -> tuple[str, ...]:
    """The phrases of the world.

    Args:
        held_out: None for all 384, True for those of held-out pairs, False for the others.
    """
    return tuple(
        f"{colour} {pattern} {shape}"
        for shape in SHAPES
        for colour in COLOURS
        for pattern in PATTERNS
        if held_out is None or ((colour, shape) in HELD_OUT_PAIRS) == held_out
    )


def random_thing(rng: np.random.Generator, held_out: bool, colour: str | None = None) -> Thing:
    """Draw three words; the pair is held out or seen as asked, the colour fixed if given."""
    pairs = [
        (c, s)
        for c in COLOURS
        for s in SHAPES
        if ((c, s) in HELD_OUT_PAIRS) == held_out and colour in (None, c)
    ]
    pair = pairs[rng.integers(len(pairs))]
    return Thing(pair[0], PATTERNS[rng.integers(len(PATTERNS))], pair[1])


def _place(canvas: NDArray[np.float32], thing: Thing, rng: np.random.Generator) -> NDArray:
    """Paint a thing with its soft shadow onto the canvas in place.

    Returns:
        (H, W) bool, the pixels that the thing covers.
    """
    height, width = canvas.shape[:2]
    tile_px = 2 * int(np.ceil(thing.radius_px * 1.5)) + 4
    turn, aspect = rng.uniform(-_MAX_TURN_RAD, _MAX_TURN_RAD), rng.uniform(0.88, 1.14)
    alpha = silhouette(thing.shape, tile_px, thing.radius_px, turn, aspect)
    texture = object_texture(thing.colour, thing.pattern, tile_px, thing.radius_px, rng)
    if rng.random() < 0.5:
        alpha = alpha[:, ::-1]
    top = round(thing.centre_yx[0] - tile_px / 2)
    left = round(thing.centre_yx[1] - tile_px / 2)
    shift = max(1, round(0.12 * thing.radius_px))
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
    """Mix a tile into the canvas in place; what lies outside is cut off."""
    y0, x0 = max(corner_yx[0], 0), max(corner_yx[1], 0)
    y1 = min(corner_yx[0] + weight.shape[0], canvas.shape[0])
    x1 = min(corner_yx[1] + weight.shape[1], canvas.shape[1])
    if y1 <= y0 or x1 <= x0:
        return
    cut = np.s_[y0 - corner_yx[0] : y1 - corner_yx[0], x0 - corner_yx[1] : x1 - corner_yx[1]]
    w = weight[cut]
    paint = value[cut] if isinstance(value, np.ndarray) else value
    canvas[y0:y1, x0:x1] += w * (paint - canvas[y0:y1, x0:x1])


def _finish(canvas: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Slight blur, then sensor noise, (H, W, 3) float32 -> uint8."""
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(1.0, 7.0)
    return np.clip(np.asarray(image, dtype=np.float32) + noise, 0, 255).astype(np.uint8)


def _hides_too_much(
    instances: NDArray, areas: list[int], centre: tuple, radius: float, min_visible: float
) -> bool:
    """Whether a disc there would leave an earlier thing less than that share to show."""
    y0, y1 = max(int(centre[0] - radius), 0), int(centre[0] + radius) + 1
    x0, x1 = max(int(centre[1] - radius), 0), int(centre[1] + radius) + 1
    left = np.bincount(instances.ravel(), minlength=len(areas) + 1)
    lost = np.bincount(instances[y0:y1, x0:x1].ravel(), minlength=len(areas) + 1) * 0.8
    return any(left[k + 1] - lost[k + 1] < min_visible * area for k, area in enumerate(areas))


def _candidate(
    rng: np.random.Generator, size_hw: tuple[int, int], things: list[Thing], layout: Layout
) -> tuple[tuple[float, float], float]:
    """Draw a centre and a radius; nothing says that there is room."""
    height, width = size_hw
    smallest, largest = layout.radii or (0.13, 0.34)
    radius = rng.uniform(smallest, largest) * min(height, width)
    margin = 0.7 * radius
    if layout.beside is None or not things:
        return (rng.uniform(margin, height - margin), rng.uniform(margin, width - margin)), radius
    other = things[rng.integers(len(things))]
    away = rng.uniform(*layout.beside) * (radius + other.radius_px)
    turn = rng.uniform(0, 2 * np.pi)
    y = other.centre_yx[0] + away * np.sin(turn)
    x = other.centre_yx[1] + away * np.cos(turn)
    return (_within(y, margin, height), _within(x, margin, width)), radius


def _within(value: float, margin: float, side: int) -> float:
    return float(min(max(value, margin), side - margin))


def draw_things(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    num_objects: int,
    held_out: bool,
    layout: Layout | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[Thing, ...]]:
    """Draw a scene of several objects.

    Returns:
        image (H, W, 3) uint8; instance map (H, W) uint8, k for ``things[k - 1]``; the things.
        Fewer than asked are drawn where no room is left.
    """
    layout = layout or Layout()
    if layout.radii is None:
        layout = replace(layout, radii=(0.13, 0.34 if num_objects <= 2 else 0.27))
    canvas = np.ascontiguousarray(background(size_hw, rng))
    instances = np.zeros(size_hw, dtype=np.uint8)
    areas: list[int] = []
    things: list[Thing] = []
    # Some scenes share one colour, so that the shape alone tells the objects apart.
    colour = random_thing(rng, held_out).colour if rng.random() < 0.15 else None
    for _ in range(num_objects):
        words = random_thing(rng, held_out, colour)
        for _attempt in range(layout.attempts):
            centre, radius = _candidate(rng, size_hw, things, layout)
            if not _hides_too_much(instances, areas, centre, radius, layout.min_visible):
                break
        else:
            continue
        thing = Thing(words.colour, words.pattern, words.shape, centre, radius)
        covered = _place(canvas, thing, rng)
        things.append(thing)
        instances[covered] = len(things)
        areas.append(max(int(covered.sum()), 1))
    return _finish(canvas, rng), instances, tuple(things)


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
        num_objects: at most so many objects (crowded scenes may hold fewer); None draws 1 to 6.
        held_out: every object is of a held-out colour-shape pair; otherwise none is.
        layout: where the objects go; None: as in training.
    """
    rng = np.random.default_rng([seed, int(held_out)])
    count = int(rng.integers(1, 7)) if num_objects is None else num_objects
    image, instances, things = draw_things(rng, size_hw, count, held_out, layout)
    labels: dict[str, int] = {}
    table = np.zeros(len(things) + 1, dtype=np.int16)
    shown = set(np.unique(instances).tolist())
    for k, thing in enumerate(things, start=1):
        if k in shown:
            table[k] = labels.setdefault(thing.phrase, len(labels) + 1)
    return Scene(image, table[instances], tuple(labels))


def draw_crop(
    rng: np.random.Generator, size_px: int = 48, held_out: bool = False
) -> tuple[NDArray[np.uint8], Thing]:
    """Draw one object, a little off centre, on a background: (size, size, 3) uint8 and its words.

    The radius is 22 to 46 % of the side.
    """
    canvas = np.ascontiguousarray(background((size_px, size_px), rng))
    words = random_thing(rng, held_out)
    radius = rng.uniform(0.22, 0.46) * size_px
    reach = 0.08 * size_px
    centre = (size_px / 2 + rng.uniform(-reach, reach), size_px / 2 + rng.uniform(-reach, reach))
    thing = Thing(words.colour, words.pattern, words.shape, centre, radius)
    _place(canvas, thing, rng)
    return _finish(canvas, rng), thing
