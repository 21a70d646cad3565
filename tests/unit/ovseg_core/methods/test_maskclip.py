"""MaskCLIP's choices."""

from typing import Any

import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.methods.maskclip import Options, build
from ovseg_core.segmenter import encode_images
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

WORDS = Vocabulary.model_validate(["cat", "dog"])


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.fixture
def images() -> list[torch.Tensor]:
    return [random_image(0, 40, 64), random_image(1, 64, 40)]


def method(backbones: Backbones, **options: Any) -> WindowSegmenter:
    return build(Options(**{"window_px": 0, **options}), backbones)


@pytest.mark.parametrize(
    ("short_side_px", "grids"),
    [
        (None, [(6, 10), (10, 6)]),  # twice the 48 px of the tiny CLIP
        (0, [(3, 4), (4, 3)]),  # 40 x 64 as it is, padded to 48 x 64
        (80, [(5, 8), (8, 5)]),
    ],
)
def test_each_image_has_its_own_grid(
    short_side_px: int | None, grids: list, backbones: Backbones, images: list[torch.Tensor]
) -> None:
    mask = method(backbones, short_side_px=short_side_px)
    assert mask.decode_side_px == (96 if short_side_px is None else short_side_px)
    maps = mask.score(encode_images(mask, images), mask.text_matrix(WORDS))
    assert [tuple(levels[0].shape) for levels in maps.levels] == [(3, *grid) for grid in grids]
    assert maps.canvas_hw is None


def test_scores_are_probabilities_over_the_words(
    backbones: Backbones, images: list[torch.Tensor]
) -> None:
    mask = method(backbones, short_side_px=0)
    maps = mask.score(encode_images(mask, images), mask.text_matrix(WORDS))
    for (level,) in maps.levels:
        torch.testing.assert_close(level.sum(0), torch.ones(level.shape[1:]))
    assert maps.domain == "prob"
    assert maps.fusion == "none"


def test_without_background_phrases_nothing_is_background(
    backbones: Backbones, images: list[torch.Tensor]
) -> None:
    mask = method(backbones, short_side_px=0)
    words = Vocabulary.model_validate({"labels": ["cat", "dog"], "background": []})
    maps = mask.score(encode_images(mask, images), mask.text_matrix(words))
    for decision in decide(maps, [(40, 64), (64, 40)]):
        assert (decision.label_map > 0).all()


def test_objectness_is_a_gate(backbones: Backbones, images: list[torch.Tensor]) -> None:
    mask = method(backbones, short_side_px=0, objectness="found")
    features = encode_images(mask, images)
    maps = mask.score(features, mask.text_matrix(WORDS))
    assert maps.fusion == "foreground_gate"
    for index, decision in enumerate(decide(maps, [(40, 64), (64, 40)])):
        foreground = features.objectness[index] > 0.5
        assert foreground.shape == decision.label_map.shape
        assert torch.equal(torch.from_numpy(decision.label_map > 0), foreground)


def test_a_higher_scale_is_surer(backbones: Backbones, images: list[torch.Tensor]) -> None:
    def highest(scale: float) -> float:
        mask = method(backbones, short_side_px=0, logit_scale=scale)
        maps = mask.score(encode_images(mask, images), mask.text_matrix(WORDS))
        return maps.levels[0][0].amax(0).mean().item()

    assert highest(100) > highest(10) > highest(1)
