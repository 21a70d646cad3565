"""Drawn scenes in five groups of difficulty, on which `make bench-quality` measures.

Every scene is a pure function of its group, its number and its split. The split `committed` is the
200 scenes of docs/quality.md; `development` is for choosing settings, so that nothing is fitted
to the table; `confirmation` is measured when the settings are final. Half of the scenes have
colour-shape pairs that are in no training picture.
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
"""Far from every seed that trained or validated the embedded models."""


@dataclass(frozen=True)
class Group:
    """Scenes of one difficulty.

    Attributes:
        title: its name in the table.
        objects: smallest and largest number of objects.
        layout: of the objects.
        num_labels: size of the vocabulary: the labels that are present and others.
    """

    title: str
    objects: tuple[int, int]
    layout: Layout
    num_labels: int = 8


GROUPS: dict[str, Group] = {
    "one": Group("one object", (1, 1), Layout()),
    "many": Group("many", (5, 6), Layout(radii=(0.12, 0.20), min_visible=0.97, attempts=200)),
    "overlapping": Group(
        "overlapping",
        (3, 5),
        Layout(radii=(0.17, 0.28), min_visible=0.35, beside=(0.45, 0.8), attempts=50),
    ),
    "small": Group("small", (2, 4), Layout(radii=(0.07, 0.11), min_visible=0.9, attempts=50)),
    "words40": Group("40 words", (2, 5), Layout(), num_labels=40),
}
CROWDED = ("many", "overlapping", "words40")
"""Groups with many objects or many labels."""


@dataclass(frozen=True)
class LabelledScene:
    """A scene with its vocabulary and truth.

    Attributes:
        scene: the image and the labels that are present.
        labels: the whole vocabulary, in random order.
        truth: (H, W) int16; 0 is background, k the label `labels[k - 1]`.
    """

    scene: Scene
    labels: tuple[str, ...]
    truth: np.ndarray


def labelled_scene(
    name: str, number: int, split: Split = "committed", num_labels: int | None = None
) -> LabelledScene:
    """Draw one scene of a group.

    Args:
        name: of the group.
        number: from 0; below `SCENES_PER_GROUP` in the table.
        split: see the module.
        num_labels: size of the vocabulary; None: the group's.
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
    count = max((num_labels or group.num_labels) - len(scene.labels), 0)
    extra = [others[index] for index in rng.choice(len(others), count, replace=False)]
    labels = tuple(str(label) for label in rng.permutation([*scene.labels, *extra]))
    numbers = np.array([0, *(labels.index(label) + 1 for label in scene.labels)], dtype=np.int16)
    return LabelledScene(scene, labels, numbers[scene.label_map])


def labelled_scenes(
    split: Split = "committed", num_labels: int | None = None
) -> dict[str, list[LabelledScene]]:
    """Draw all scenes of a split, by group."""
    return {
        name: [
            labelled_scene(name, number, split, num_labels) for number in range(SCENES_PER_GROUP)
        ]
        for name in GROUPS
    }
