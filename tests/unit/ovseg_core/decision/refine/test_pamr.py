"""PAMR by blocks of rows is PAMR of the whole image."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from ovseg_core.decision.decide import decide
from ovseg_core.decision.refine.pamr import Pamr, RefinedMap, Refinement
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.bilinear import MeanMap
from ovseg_core.methods import sclip
from ovseg_core.segmenter import encode_images
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

SIZE = (70, 45)


@pytest.fixture
def guides() -> tuple[Image, Image]:
    return random_image(0, 40, 30), random_image(1, 25, 33)


@pytest.mark.parametrize("block_rows", [1, 7, 1000])
@pytest.mark.parametrize("band_rows", [1, 9, 70])
def test_refined_map_in_blocks_equals_the_whole(
    block_rows: int, band_rows: int, guides: tuple
) -> None:
    elements = block_rows * 3 * SIZE[1]
    pamr = Pamr(4, (1, 3))
    scores = MeanMap([torch.rand(3, 5, 4)], SIZE)
    for index, guide in enumerate(guides):
        large = functional.interpolate(guide[None].float(), SIZE, mode="bilinear")[0]
        whole = pamr(large, scores.rows(slice(0, SIZE[0])))
        refined = RefinedMap(scores, 3, Refinement(pamr, guides), index, SIZE, elements)
        for _ in range(2):  # as with an area threshold, which looks at everything twice
            bands = [slice(at, min(at + band_rows, SIZE[0])) for at in range(0, SIZE[0], band_rows)]
            rows = torch.cat([refined.rows(band) for band in bands], dim=1)
            torch.testing.assert_close(rows, whole, atol=1e-5, rtol=0)


def test_pamr_moves_scores_to_the_edge_of_the_image() -> None:
    image = torch.zeros(3, 20, 30)
    image[:, :, 13:] = 200
    scores = torch.zeros(2, 20, 30)
    scores[0, :, :17], scores[1, :, 17:] = 1, 1  # the edge is found four pixels too far right
    before, after = scores.argmax(0), Pamr(10, (1, 2))(image, scores).argmax(0)
    truth = (torch.arange(30) >= 13).long().expand(20, 30)
    assert (after != truth).sum() < (before != truth).sum()


def test_weights_do_not_depend_on_brightness_and_contrast(guides: tuple) -> None:
    pamr = Pamr(3, (2,))
    one, other = (pamr.weights(image.float()) for image in (guides[0], 7 + guides[0].float() / 255))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.sum(0), torch.ones(40, 30))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
def test_pamr_of_an_image_of_one_colour_keeps_the_scores(size: tuple[int, int]) -> None:
    refined = Pamr(2, (8, 16))(torch.full((3, *size), 9), torch.ones(2, *size))
    torch.testing.assert_close(refined, torch.ones(2, *size))


def test_pamr_steps_of_any_window_method() -> None:
    images = [random_image(0, 40, 64), random_image(1, 64, 40)]
    words = Vocabulary.model_validate(["cat", "dog", "sofa"])

    def confidence(**options: Any) -> torch.Tensor:
        method = sclip.build(sclip.Options(**options), tiny_backbones())
        maps = method.score(encode_images(method, images), method.text_matrix(words))
        return torch.from_numpy(decide(maps, [(40, 64), (64, 40)])[1].confidence)

    assert (confidence() - confidence(pamr_steps=3, pamr_dilations=(2, 5))).abs().max() > 1e-3
