"""CLIP Surgery's two ways to take off what words share, its blocks, and points for SAM."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ovseg_core.backbones.text.text_encoder import templates_of
from ovseg_core.dense.scoring import surgery_rows
from ovseg_core.methods import build_segmenter
from ovseg_core.methods.clip_surgery import display_maps, empty_text, min_max_scaled, point_prompts
from ovseg_core.segmenter import ScoreMaps, encode_images
from schemas.config import NamedOptions
from schemas.errors import ConfigError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def maps_of(words: list[str], background: list[str], **options: Any) -> ScoreMaps:
    method = build_segmenter(NamedOptions(name="clip_surgery", options=options), tiny_backbones())
    text = method.text_matrix(
        Vocabulary.model_validate({"labels": words, "background": background})
    )
    images = [random_image(seed, 45, 60) for seed in range(2)]
    return method.score(encode_images(method, images), text)


def test_the_closed_form_is_products_less_their_mean_over_phrases() -> None:
    """As the paper has it: every product of a patch with a phrase, channel by channel."""
    patches, rows = (functional.normalize(rand(n, 8) - 0.5, dim=1) for n in (5, 3))
    classes = functional.normalize(rand(2, 8, seed=1) - 0.5, dim=1)
    for one, ours in zip(classes, surgery_rows(classes, rows), strict=True):
        weights = (2 * rows @ one).softmax(0)
        weights = weights / weights.mean()
        products_NQD = patches[:, None] * rows[None] * weights[None, :, None]
        expected = (products_NQD - products_NQD.mean(dim=1, keepdim=True)).sum(dim=2)
        torch.testing.assert_close(patches @ ours.T, expected)


def test_scores_of_a_patch_sum_to_nothing() -> None:
    """What all phrases share is gone: nothing is left of one phrase alone."""
    for level in maps_of(["cat", "dog", "sofa"], ["wall"]).levels:
        assert level[0].sum(0).abs().max() < 1e-6
        assert level[0].abs().max() > 1e-3
    alone = maps_of(["cat"], [])
    assert alone.levels[0][0].abs().max() < 1e-6


def test_of_the_empty_text_every_phrase_is_apart() -> None:
    few = maps_of(["cat", "dog"], [], redundancy="empty").levels[0][0]
    more = maps_of(["cat", "dog", "sofa"], [], redundancy="empty").levels[0][0]
    torch.testing.assert_close(few, more[:2])
    assert few.abs().max() > 1e-3


def test_the_empty_text_is_the_templates_without_a_word() -> None:
    clip = tiny_backbones().clip
    prompts = [template.format("") for template in templates_of("t85")]
    assert len(prompts) == 85
    with torch.inference_mode():
        units = functional.normalize(clip.encode_text(prompts), dim=1)
    torch.testing.assert_close(empty_text(clip, "t85"), functional.normalize(units.mean(0), dim=0))


@pytest.mark.parametrize("count", [3, 7])
def test_more_second_blocks_than_clip_has_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=r"second_path_blocks: expected 1 to 2 .*got"):
        maps_of(["cat"], [], second_path_blocks=count)


def test_the_second_path_is_longer_with_more_blocks() -> None:
    one, two = (maps_of(["cat"], ["wall"], second_path_blocks=n).levels[0][0] for n in (1, 2))
    assert (one - two).abs().max() > 1e-4


def test_maps_are_spread_and_a_constant_one_is_nothing() -> None:
    maps = torch.stack([rand(3, 4) * 9 - 5, torch.full((3, 4), 2.5)])
    assert min_max_scaled(maps)[0].min() == 0
    assert min_max_scaled(maps)[0].max() == 1
    assert not min_max_scaled(maps)[1].any()
    shown = display_maps(maps, (9, 14))
    expected = functional.interpolate(min_max_scaled(maps)[None], size=(9, 14), mode="bilinear")[0]
    assert torch.equal(shown, expected)


def test_points_lie_on_the_object_and_off_it() -> None:
    scores = torch.zeros(8, 12)
    scores[0:2, 8:12] = 3.0  # cells (0, 4) and (0, 5) of 4 x 6
    scores[6:8, 0:2] = -1.0  # cell (3, 0)
    points, on = point_prompts(scores, (80, 90))
    assert on.tolist() == [1, 1, 0, 0]
    assert sorted(points[:2].tolist()) == [[67, 10], [82, 10]]
    assert points[2].tolist() == [7, 70]
    assert points.dtype == torch.int64


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2)])
def test_points_of_few_patches_are_inside_the_image(shape: tuple[int, int]) -> None:
    points, on = point_prompts(rand(*shape), (3, 4), threshold=0.0)
    cells = max(shape[0] // 2, 1) * max(shape[1] // 2, 1)
    assert len(points) == len(on) == cells // 2 * 2
    assert (points >= 0).all()
    assert (points < torch.tensor([4, 3])).all()
