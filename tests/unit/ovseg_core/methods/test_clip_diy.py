"""CLIP-DIY's choices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.images.batch import ImageBatch
from ovseg_core.methods.clip_diy import ClipDiy, Options, build
from ovseg_core.objectness import build_objectness
from ovseg_core.segmenter import encode_images
from schemas.config import NamedOptions
from schemas.errors import VocabularyError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

WORDS = Vocabulary.model_validate(["cat", "dog"])


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.fixture
def images() -> list[torch.Tensor]:
    return [random_image(0, 40, 64), random_image(1, 64, 40)]


def method(backbones: Backbones, **options: Any) -> ClipDiy:
    return build(Options(**options), backbones)


def test_the_defaults_are_the_papers() -> None:
    options = Options()
    assert options.scales == (256, 128, 64)
    assert options.objectness.name == "found"
    assert options.templates == "diy"


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({}, [1, 3, 7]),
        ({"scales": (256,)}, [1]),
        ({"scales": (128, 64, 32)}, [3, 7, 15]),
        ({"stride_divisor": 1}, [1, 2, 4]),
        ({"side_px": 96, "scales": (96, 48)}, [1, 3]),
    ],
)
def test_scales_and_strides(
    options: dict, sides: list[int], backbones: Backbones, images: list[torch.Tensor]
) -> None:
    diy = method(backbones, **options)
    maps = diy.score(encode_images(diy, images), diy.text_matrix(WORDS))
    for levels in maps.levels:
        assert [tuple(level.shape) for level in levels] == [(3, side, side) for side in sides]
    side_px = options.get("side_px", 256)
    assert maps.canvas_hw == (side_px, side_px)
    assert maps.objectness[0].shape == (side_px, side_px)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "at least 1 item"),
        ({"scales": (512,)}, "expected crops of 1 to 256 px"),
        ({"scales": (64, 2), "stride_divisor": 4}, "have no stride"),
    ],
)
def test_impossible_crops_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_crops_lie_where_the_grid_says(backbones: Backbones) -> None:
    """A bright quarter is seen by the crops over it, rows before columns."""
    image = torch.zeros((3, 256, 256), dtype=torch.uint8)
    image[:, :128, 128:] = 255
    diy = method(backbones, scales=(128,), stride_divisor=1)
    crops = diy.pyramid.cut(image[None], backbones.clip.input_px)
    assert [crop.float().mean().item() for crop in crops[0]] == [0, 255, 0, 0]


def test_cosines_are_of_crops_and_words(backbones: Backbones, images: list[torch.Tensor]) -> None:
    diy = method(backbones, objectness="none")
    features, text = encode_images(diy, images), diy.text_matrix(WORDS)
    maps = diy.score(features, text)
    assert maps.fusion == "none"
    assert maps.objectness is None
    crops = F.normalize(features.crops_BND, dim=-1)
    expected = crops[1, 1 + 4] @ text.rows_QD.T  # scale 1, second row, second column
    torch.testing.assert_close(maps.levels[1][1][:, 1, 1], expected)


def test_memory_bound_changes_nothing(backbones: Backbones, images: list[torch.Tensor]) -> None:
    whole = encode_images(method(backbones), images).crops_BND
    parts = encode_images(method(backbones, crops_per_forward=7), images).crops_BND
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)


def test_the_demo_variant_finds_objects_in_the_squashed_image(
    backbones: Backbones, images: list[torch.Tensor]
) -> None:
    demo = method(backbones, variant="demo")
    squashed = [demo.squash(image) for image in images]
    expected = F.interpolate(images[0][None], (256, 256), mode="nearest")[0]
    assert torch.equal(squashed[0], expected)
    foreground = build_objectness(NamedOptions(name="found"), backbones).maps(squashed)
    features = encode_images(demo, images)
    torch.testing.assert_close(torch.stack(features.objectness), torch.stack(foreground))
    assert demo.decode_side_px == 256
    evaluation = encode_images(method(backbones), images)
    assert (evaluation.objectness[0] - features.objectness[0]).abs().max() > 1e-3
    assert (evaluation.crops_BND - features.crops_BND).abs().max() > 1e-4


def test_the_demo_variant_keeps_the_images_paths(
    backbones: Backbones, images: list[torch.Tensor], tmp_path: Path
) -> None:
    torch_map = torch.rand((5, 7))
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, torch_map.numpy())
    options = {"name": "external", "options": {"folder": str(tmp_path)}}
    demo = method(backbones, variant="demo", objectness=options)
    batch = ImageBatch(tuple(images), ("a.jpg", "b.jpg"))
    expected = F.interpolate(torch_map[None, None], (256, 256), mode="bilinear")[0, 0]
    torch.testing.assert_close(encode_images(demo, batch).objectness[1], expected)


@pytest.mark.parametrize("side", [0, 300])
def test_decode_side_is_the_users(side: int, backbones: Backbones) -> None:
    assert method(backbones, decode_side_px=side).decode_side_px == side


def test_background_is_the_literal_word_or_a_prompt(backbones: Backbones) -> None:
    def row(**options: Any) -> torch.Tensor:
        return method(backbones, **options).text_matrix(WORDS).rows_QD[0]

    def embedded(prompt: str) -> torch.Tensor:
        return F.normalize(backbones.clip.encode_text([prompt])[0], dim=-1)

    torch.testing.assert_close(row(), embedded("background"))
    torch.testing.assert_close(
        row(background_prompt="template"), embedded("a photo of a background")
    )


def test_background_phrases_are_needed(backbones: Backbones) -> None:
    words = Vocabulary.model_validate({"labels": ["cat"], "background": []})
    with pytest.raises(VocabularyError, match="at least one phrase"):
        method(backbones).text_matrix(words)
    assert len(method(backbones, objectness={"name": "none"}).text_matrix(words).rows_QD) == 1


def test_no_foreground_is_all_background(backbones: Backbones) -> None:
    """Where objectness is 0 every label's score is 0, so a positive background wins."""
    diy = method(backbones)
    features = encode_images(diy, [random_image(0, 30, 40), random_image(1, 30, 40)])
    text = diy.text_matrix(WORDS)
    rows = F.normalize(features.crops_BND[0].mean(0), dim=-1).expand_as(text.rows_QD)
    zero = torch.zeros((256, 256))
    features = type(features)(features.crops_BND, (zero, 1 - zero))
    maps = diy.score(features, type(text)(rows, text.class_index_Q, text.num_classes))
    first, second = decide(maps, [(30, 40), (30, 40)])
    assert (first.label_map == 0).all()
    assert (second.label_map > 0).all()
