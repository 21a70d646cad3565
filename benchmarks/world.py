"""The drawn world in five grades of difficulty: the scenes that `make bench-quality` measures on.

Every scene is a pure function of its group, its number and its split. `committed` are the 200
scenes of the README's table; `development` are others, for choosing settings, so that nothing is
fitted to the table; `confirmation` are measured when nothing is chosen any more. Half of the scenes
are of colour-shape pairs that no training picture held.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jobs.demo.scenes import Layout, Scene, all_phrases, draw_scene

Split = Literal["committed", "development", "confirmation"]

SCENES_PER_GROUP = 40
SIZES_HW = ((128, 160), (160, 128), (120, 176), (176, 120))
FIRST_SEED: dict[Split, int] = {
    "committed": 970_000_000,
    "development": 980_000_000,
    "confirmation": 990_000_000,
}
"""Far from every seed that trained or judged the embedded models."""


@dataclass(frozen=True)
class Group:
    """One grade of difficulty.

    Attributes:
        title: what the table calls it.
        objects: fewest and most objects.
        layout: where they go.
        words: size of the vocabulary: what is present, filled up with other phrases of the world.
    """

    title: str
    objects: tuple[int, int]
    layout: Layout
    words: int = 8


GROUPS: dict[str, Group] = {
    "one": Group("one object", (1, 1), Layout()),
    "many": Group("many", (5, 6), Layout(radii=(0.12, 0.20), min_visible=0.97, attempts=200)),
    "overlapping": Group(
        "overlapping",
        (3, 5),
        Layout(radii=(0.17, 0.28), min_visible=0.35, beside=(0.45, 0.8), attempts=50),
    ),
    "small": Group("small", (2, 4), Layout(radii=(0.07, 0.11), min_visible=0.9, attempts=50)),
    "words40": Group("40 words", (2, 5), Layout(), words=40),
}
CROWDED = ("many", "overlapping", "words40")
"""The crowded half: many things, or many words for them."""


@dataclass(frozen=True)
class Exam:
    """A scene and the words that are asked.

    Attributes:
        scene: image, truth and the phrases that are present.
        words: all that are asked, in an order that tells nothing.
        truth: (H, W) int16; 0 is background, k the word `words[k - 1]`.
    """

    scene: Scene
    words: tuple[str, ...]
    truth: np.ndarray


def exam(name: str, number: int, split: Split = "committed") -> Exam:
    """Draw one scene of a group.

    Args:
        name: of the group.
        number: counts from 0; below `SCENES_PER_GROUP` in the table.
        split: see the module.
    """
    group = GROUPS[name]
    seed = FIRST_SEED[split] + list(GROUPS).index(name) * 1_000_000 + number
    rng = np.random.default_rng([seed, 3])
    scene = draw_scene(
        seed,
        SIZES_HW[number // 2 % len(SIZES_HW)],
        int(rng.integers(group.objects[0], group.objects[1] + 1)),
        held_out=number % 2 == 1,
        layout=group.layout,
    )
    others = [phrase for phrase in all_phrases() if phrase not in scene.labels]
    count = max(group.words - len(scene.labels), 0)
    extra = [others[index] for index in rng.choice(len(others), count, replace=False)]
    words = tuple(str(word) for word in rng.permutation([*scene.labels, *extra]))
    table = np.array([0, *(words.index(label) + 1 for label in scene.labels)], dtype=np.int16)
    return Exam(scene, words, table[scene.label_map])


def exams(split: Split = "committed") -> dict[str, list[Exam]]:
    """Draw all scenes of a split, by group."""
    return {
        name: [exam(name, number, split) for number in range(SCENES_PER_GROUP)] for name in GROUPS
    }
