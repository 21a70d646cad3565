"""Every method runs on the models that come with the package, and knows its way about there."""

import numpy as np
import pytest
import torch

from ovseg_core import methods, parts
from ovseg_core.backbones import Backbones
from ovseg_core.decide import decide
from ovseg_core.embedded.scenes import Scene, draw_scene
from ovseg_core.methods import build_segmenter
from ovseg_core.nearest import to_size
from schemas.config import EMBEDDED, ClipConfig, NamedOptions
from schemas.vocabulary import Vocabulary

WORDS = Vocabulary.model_validate(["red star", "blue circle", "green house", "yellow fish"])


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return Backbones(ClipConfig(model=EMBEDDED), EMBEDDED)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(70_000 + seed) for seed in range(6)]


def pixels_of(scenes: list[Scene]) -> list[torch.Tensor]:
    return [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]


@pytest.mark.parametrize("name", parts.names(methods.PACKAGE))
def test_objects_are_found_and_named(name: str, backbones: Backbones, scenes: list[Scene]) -> None:
    """Each scene is asked about its own words; the mean IoU is far above chance."""
    part = NamedOptions(name=name, options={"objectness": "found"})
    segmenter = build_segmenter(part, backbones)
    features = segmenter.encode(pixels_of(scenes))
    ious: list[float] = []
    for index, scene in enumerate(scenes):
        text = segmenter.text_matrix(Vocabulary.model_validate(list(scene.labels)))
        maps = segmenter.score(features, text)
        decision = decide(maps, [scene.label_map.shape] * len(scenes))[index]
        ours = to_size(decision.label_map, scene.label_map.shape)
        for number in range(1, len(scene.labels) + 1):
            mine, true = ours == number, scene.label_map == number
            ious.append(float((mine & true).sum() / max((mine | true).sum(), 1)))
    assert np.mean(ious) > 0.3


def test_the_tiny_clip_knows_its_words(backbones: Backbones) -> None:
    segmenter = build_segmenter(NamedOptions(name="clip_diy"), backbones)
    rows = segmenter.text_matrix(WORDS).rows_QD
    cosines = rows @ rows.T - torch.eye(len(rows))
    assert cosines.max() < 0.9
    assert set(backbones.files()) == {"clip", "vision", "found"}
