"""Options that go beyond the papers: outlier repair, attention over all windows, presence gate."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.dense.presence import present_rows
from ovseg_core.dense.whole_image import merge_windows
from ovseg_core.dense.windows import Windows
from ovseg_core.images.batch import Image
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import DecisionRule, ScoreMaps, TextMatrix
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

PATCH_PX = 4
WORDS = Vocabulary.model_validate(["cat", "dog", "sofa", "tree"])


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [random_image(0, 60, 100), random_image(1, 100, 60)]


def state_of(tokens_WCh: Tensor) -> TrunkFeatures:
    """A state whose class token is the mean of its patches."""
    patches_WNC = tokens_WCh.flatten(2).mT
    tokens_WLC = torch.cat([patches_WNC.mean(1, keepdim=True), patches_WNC], dim=1)
    return TrunkFeatures(tokens_WLC, (tokens_WCh.shape[2], tokens_WCh.shape[3]), {}, {})


def patches_of(state: TrunkFeatures) -> Tensor:
    return state.tokens_BLC[:, 1:].mT.unflatten(2, state.grid_hw)


@pytest.mark.parametrize("grid_hw", [(9, 14), (5, 14), (4, 4), (3, 9)])
def test_aligned_windows_lie_where_they_were_cut(grid_hw: tuple[int, int]) -> None:
    """Windows of a known map, laid together again, are the map."""
    tokens = torch.randn((1, 6, *grid_hw), generator=torch.Generator().manual_seed(0))
    pixels = torch.zeros(3, *(PATCH_PX * side for side in grid_hw))
    cut = Windows(5 * PATCH_PX, 2 * PATCH_PX, PATCH_PX, PATCH_PX, "drop").cut(pixels)
    rows, columns = cut.spans
    states = [
        state_of(tokens[:, :, y1 // 4 : y2 // 4, x1 // 4 : x2 // 4])
        for y1, y2 in rows
        for x1, x2 in columns
    ]
    whole = merge_windows(states, cut, PATCH_PX)
    assert whole.grid_hw == grid_hw
    torch.testing.assert_close(patches_of(whole), tokens)
    classes = torch.cat([one.tokens_BLC[:, :1] for one in states])
    torch.testing.assert_close(whole.tokens_BLC[:, :1], classes.mean(0, keepdim=True))


@pytest.mark.parametrize("padding", ["drop", "middle", "black", "zeros"])
@pytest.mark.parametrize("size_hw", [(50, 71), (11, 90), (23, 23)])
def test_what_is_the_same_everywhere_stays_so(size_hw: tuple[int, int], padding: Any) -> None:
    """No cell is left empty and none counts twice, whatever the windows' sides."""
    windows = Windows(22, 9, PATCH_PX, PATCH_PX, padding, torch.zeros(3))
    cut = windows.cut(torch.zeros(3, *size_hw))
    height, width = (side // PATCH_PX for side in cut.windows[0].shape[1:])
    states = [state_of(torch.full((1, 2, height, width), 7.0)) for _ in cut.windows]
    guided = [replace(one, extra_maps={"fine": torch.full((1, 3, 8, 5), 2.0)}) for one in states]
    whole = merge_windows(guided, cut, PATCH_PX)
    torch.testing.assert_close(whole.tokens_BLC, torch.full_like(whole.tokens_BLC, 7.0))
    fine = whole.extra_maps["fine"]
    torch.testing.assert_close(fine, torch.full_like(fine, 2.0))


METHODS = ["maskclip", "maskclip_original", "sclip", "clearclip", "naclip", "sc_clip"]


def levels(backbones: Backbones, images: list[Image], name: str, **options: Any) -> list[Tensor]:
    segmenter = build_segmenter(NamedOptions(name=name, options=options), backbones)
    maps = segmenter.score(segmenter.encode(images), segmenter.text_matrix(WORDS))
    return [level for (level,) in maps.levels]


@pytest.mark.parametrize("name", METHODS)
def test_of_one_window_all_attention_is_global(name: str, backbones: Backbones) -> None:
    images = [random_image(0, 64, 112), random_image(1, 112, 64)]
    options = {"short_side_px": 64, "window_px": 0}
    apart = levels(backbones, images, name, **options)
    together = levels(backbones, images, name, **options, global_attention=True)
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_global_attention_is_of_the_whole_image(
    name: str, backbones: Backbones, images: list[Image]
) -> None:
    """One grid in place of many windows, and what is far away has a say."""
    sizes = {"short_side_px": 96, "window_px": 48, "stride_px": 32}
    changed = images[0].clone()
    changed[:, :, 80:] = 255 - changed[:, :, 80:]
    before, after = levels(backbones, [images[0], changed], name, **sizes, global_attention=True)
    assert before.shape == (5, 6, 10)
    far_left = (before - after)[:, :, :3].abs().max()
    apart = levels(backbones, [images[0], changed], name, **sizes)
    if name.startswith("maskclip"):  # tokens keep their own values: nothing to attend to
        assert far_left < 1e-5
    else:
        assert far_left > 1e-6
    assert torch.equal(apart[0][:, :, :3], apart[1][:, :, :3])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "sc_clip"])
def test_repair_changes_few_patches_of_a_reading(
    name: str, backbones: Backbones, images: list[Image]
) -> None:
    options = {"short_side_px": 112, "window_px": 0}
    plain = levels(backbones, images, name, **options)
    repaired = levels(backbones, images, name, **options, outlier_repair=True)
    for one, other in zip(plain, repaired, strict=True):
        change = (one - other).abs().amax(dim=0)
        assert change.max() > 1e-4
        if name.startswith("maskclip"):  # every patch for itself: 5 % of 7 x 12 change
            assert (change > 1e-6).sum() == 5


def test_presence_is_the_best_window_of_the_best_phrase() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn((9, 8), generator=generator), dim=1)
    text = TextMatrix(rows, torch.tensor([0, 1, 1, 2, 3, 3, 4, 5, 6]), 7)
    pooled = torch.randn((4, 8), generator=generator)
    stays = present_rows(pooled, text, scale=10.0, most=2)
    cosines = (pooled / pooled.norm(dim=1, keepdim=True)).numpy() @ rows.numpy().T
    odds = np.exp(10 * cosines)
    best = (odds / odds.sum(1, keepdims=True)).max(0)
    of_class = [best[text.class_index_Q.numpy() == k].max() for k in range(7)]
    kept = {0, *(1 + np.argsort(of_class[1:])[::-1][:2])}
    assert stays.tolist() == [int(k) in kept for k in text.class_index_Q]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("together", [False, True])
def test_labels_that_are_not_present_win_nowhere(
    name: str, together: bool, backbones: Backbones, images: list[Image]
) -> None:
    words = Vocabulary.model_validate({"labels": [*WORDS.names], "background": []})
    sizes = [(60, 100), (100, 60)]
    found = {}
    for most in (0, 1, 4, 1000):
        options = {"presence_top": most, "global_attention": together, "pamr_steps": 0}
        segmenter = build_segmenter(NamedOptions(name=name, options=options), backbones)
        maps = segmenter.score(segmenter.encode(images), segmenter.text_matrix(words))
        found[most] = [one.label_map for one in decide(maps, sizes)]
    for index in range(2):
        assert len(np.unique(found[1][index])) == 1
        for every in (4, 1000):
            assert np.array_equal(found[every][index], found[0][index])


def test_a_rule_of_probabilities_keeps_its_threshold() -> None:
    level = torch.tensor([[0.2, 0.1], [0.3, 0.7], [0.1, 0.2]])[:, None, :]
    rule = DecisionRule(torch.arange(3), 3, probability_threshold=0.5)
    maps = ScoreMaps(((level,),), None, None, "none", "prob", 1.0, rule=rule)
    (decision,) = decide(maps, [(1, 2)])
    assert decision.label_map.tolist() == [[0, 1]]
