"""Components of a label map, redrawn by a promptable network."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ovseg_core.decision.decide import decide, decide_one
from ovseg_core.decision.refine.components import (
    MAX_COMPONENTS,
    Answers,
    Components,
    at_centres,
    coarse_logits,
    components_of,
    with_masks,
)
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import ScoreMaps, encode_images
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones
from tests.helpers.tiny_sams import write_sam

SIZES = [(30, 45), (45, 30)]
WORDS = Vocabulary.model_validate(["cat", "dog", "sofa"])


def boxes(labels: Tensor) -> list[tuple[int, list[int]]]:
    found = components_of(labels)
    return list(zip(found.labels_C.tolist(), found.boxes_C4.int().tolist(), strict=True))


def test_components_are_connected_by_corners_and_background_is_none() -> None:
    labels = torch.zeros(8, 12, dtype=torch.int32)
    labels[1:3, 1:3] = 2
    labels[3:5, 3:6] = 2  # touches the first by a corner
    labels[0:3, 8:10] = 2
    labels[6:8, 0:12] = 1
    expected = [(1, [0, 6, 12, 8]), (2, [1, 1, 6, 5]), (2, [8, 0, 10, 3])]
    assert sorted(boxes(labels)) == expected
    numbers = components_of(labels).numbers_hw
    assert torch.equal(numbers >= 0, labels > 0)
    assert boxes(torch.zeros(5, 7, dtype=torch.uint8)) == []


def test_a_component_of_a_few_pixels_is_left_as_it_is() -> None:
    labels = torch.zeros(6, 9, dtype=torch.int32)
    labels[0, 0:3] = 1
    labels[4, 0:4] = 1
    assert boxes(labels) == [(1, [0, 4, 4, 5])]


def test_of_very_many_components_the_largest_are_taken_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels = torch.zeros(64, 120, dtype=torch.int32)
    for row in range(0, 63, 3):
        labels[row : row + 2, torch.arange(120) % 3 != 2] = 1
    labels[:5, :8] = 2
    with caplog.at_level(logging.WARNING):
        found, _ = components_of(labels), components_of(labels)
    assert len(found.labels_C) == MAX_COMPONENTS
    assert found.labels_C[0] == 2, "the largest"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert f"more than {MAX_COMPONENTS} components" in said[0]


def test_labels_are_read_at_the_centres_of_coarser_pixels() -> None:
    labels = torch.arange(6 * 9).view(6, 9)
    assert at_centres(labels, (2, 3)).tolist() == [[10, 13, 16], [37, 40, 43]]
    assert torch.equal(at_centres(labels, (6, 9)), labels)


def test_coarse_logits_are_highest_deep_inside_and_symmetric() -> None:
    inside = torch.zeros(1, 40, 60, dtype=torch.bool)
    inside[0, 10:30, 15:45] = True
    logits = coarse_logits(inside)[0]
    assert (float(logits.max()), float(logits.min())) == (6.0, -6.0)
    assert logits[20, 15] > 0 > logits[20, 14]
    torch.testing.assert_close(logits, logits.flip(1))


def scene() -> tuple[Tensor, Components]:
    """Two objects of 40 x 60 pixels, found four pixels too wide; the maps are half as large."""
    labels = torch.zeros(40, 60, dtype=torch.int32)
    labels[4:28, 4:28] = 1
    labels[10:36, 28:56] = 2
    return labels, components_of(at_centres(labels, (20, 30)))


def masks_of(*true: tuple[int, int, int, int]) -> Tensor:
    """Return logits (C, 20, 30) of rectangles top, left, bottom, right."""
    masks = torch.full((len(true), 20, 30), -5.0)
    for mask, (top, left, bottom, right) in zip(masks, true, strict=True):
        mask[top:bottom, left:right] = 5.0
    return masks


def test_a_mask_that_agrees_takes_the_place_of_its_component() -> None:
    labels, components = scene()
    answers = Answers(
        masks_of((4, 4, 12, 12), (0, 0, 20, 30)),
        torch.tensor([True, False]),
        torch.tensor([0.5, 0.9]),
    )
    found = with_masks(labels, components, answers, None)
    expected = labels.clone()
    expected[labels == 1] = 0
    expected[8:24, 8:24] = 1
    assert torch.equal(found, expected)
    assert labels[5, 5] == 1, "the map that was handed over is as it was"


def test_the_surer_mask_is_on_top() -> None:
    labels, components = scene()
    masks = masks_of((2, 2, 14, 18), (5, 10, 18, 28))
    for sureness, on_top in (([0.9, 0.2], 1), ([0.2, 0.9], 2)):
        answers = Answers(masks, torch.tensor([True, True]), torch.tensor(sureness))
        found = with_masks(labels, components, answers, None)
        assert (found[12:26, 22:34] == on_top).all()


def test_a_component_that_keeps_its_mask_is_not_painted_over_by_a_less_sure_one() -> None:
    labels, components = scene()
    masks = masks_of((2, 2, 14, 20), (0, 0, 1, 1))
    answers = Answers(masks, torch.tensor([True, False]), torch.tensor([0.2, 0.9]))
    found = with_masks(labels, components, answers, None)
    assert torch.equal(found == 2, labels == 2)


def test_where_there_is_no_background_a_lost_pixel_takes_its_next_best_label() -> None:
    labels, components = scene()
    answers = Answers(
        masks_of((4, 4, 12, 12), (5, 14, 18, 28)),
        torch.tensor([True, False]),
        torch.tensor([0.5, 0.9]),
    )
    best = torch.stack([torch.full((20, 30), 1), torch.full((20, 30), 3)])
    found = with_masks(labels, components, answers, best)
    assert (found[4:8, 4:28] == 3).all()
    assert (found[8:24, 8:24] == 1).all()
    assert (found[labels == 0] == 0).all()


def test_a_canvas_that_is_no_multiple_of_the_masks_leaves_no_slivers() -> None:
    labels = torch.zeros(67, 91, dtype=torch.uint8)
    labels[11:52, 13:78] = 4
    components = components_of(at_centres(labels, (20, 30)))
    logits = torch.full((1, 20, 30), -3.0)
    logits[0, 7:12, 9:20] = 3.0
    found = with_masks(labels, components, Answers(logits, torch.ones(1) > 0, torch.ones(1)), None)
    expected = functional.interpolate(logits[None], (67, 91), mode="bilinear")[0, 0] > 0
    assert torch.equal(found == 4, expected)
    assert found.dtype == labels.dtype


@pytest.fixture(scope="module", params=["sam", "sam2"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_sam(tmp_path_factory.mktemp(f"{request.param}-"), request.param)


def refined_maps(method: str, weights: str, seeds: tuple[int, ...], min_iou: float) -> ScoreMaps:
    part = {"name": "sam", "options": {"weights": weights, "points_per_side": 1}}
    options: dict[str, Any] = {"proposals": part, "region_vote": False, "refine_masks": True}
    named = NamedOptions(name=method, options={**options, "refine_min_iou": min_iou})
    segmenter = build_segmenter(named, tiny_backbones())
    images = [random_image(seed, *SIZES[seed]) for seed in seeds]
    return segmenter.score(encode_images(segmenter, images), segmenter.text_matrix(WORDS))


@pytest.mark.parametrize("method", ["sclip", "clip_diy", "clip_surgery"])
def test_any_method_is_refined_alone_as_in_a_batch(method: str, weights: str) -> None:
    together = decide(refined_maps(method, weights, (0, 1), 0.0), SIZES)
    maps = refined_maps(method, weights, (0, 1), 0.0)
    plain = decide(replace(maps, prompted=None), SIZES)
    for index, (size, first, second) in enumerate(zip(SIZES, plain, together, strict=True)):
        assert not np.array_equal(first.label_map, second.label_map)
        assert first.label_map.shape == second.label_map.shape
        (alone,) = decide(refined_maps(method, weights, (index,), 0.0), [size])
        assert (alone.label_map == second.label_map).mean() > 0.99, "but for rounding"


def test_nothing_changes_where_nothing_agrees(weights: str) -> None:
    maps = refined_maps("sclip", weights, (0, 1), 1.0)
    for first, second in zip(
        decide(maps, SIZES), decide(replace(maps, prompted=None), SIZES), strict=True
    ):
        np.testing.assert_array_equal(first.label_map, second.label_map)
        np.testing.assert_allclose(first.confidence, second.confidence, atol=1e-6)


def test_confidence_is_the_probability_of_the_label_that_a_pixel_was_given(weights: str) -> None:
    maps = refined_maps("sclip", weights, (0, 1), 0.0)
    refined, plain = (decide_one(m, 0, SIZES[0]) for m in (maps, replace(maps, prompted=None)))
    moved = refined.label_map != plain.label_map
    assert moved.any()
    assert (refined.margin[moved] == 0).all()
    assert (refined.confidence[moved] <= plain.confidence[moved] + 1e-6).all()
    np.testing.assert_allclose(refined.confidence[~moved], plain.confidence[~moved], atol=1e-6)


def test_a_large_image_is_refined_too_and_bands_make_no_difference(weights: str) -> None:
    maps, size = refined_maps("sclip", weights, (0, 1), 0.0), (150, 225)
    whole = decide_one(maps, 0, size)
    banded = decide_one(maps, 0, size, band_elements=2000)
    large = decide_one(maps, 0, size, sampled_from_px=1)
    assert (whole.label_map == banded.label_map).mean() > 0.99
    assert (whole.label_map == large.label_map).mean() > 0.99
    assert large.samples is not None
    np.testing.assert_allclose(whole.class_mean_prob, large.class_mean_prob, atol=1e-2)


def test_with_tiles_the_whole_image_is_asked(weights: str) -> None:
    options = {"weights": weights, "points_per_side": 1, "tile_px": 64}
    named = {"proposals": {"name": "sam", "options": options}, "refine_masks": True}
    segmenter = build_segmenter(NamedOptions(name="sclip", options=named), tiny_backbones())
    features = encode_images(segmenter, [random_image(seed, *SIZES[seed]) for seed in range(2)])
    prompted = segmenter.score(features, segmenter.text_matrix(WORDS)).prompted
    expected = refined_maps("sclip", weights, (0, 1), 0.0).prompted
    assert prompted is not None
    assert expected is not None
    assert [prompted.images.mask_hw(i) for i in (0, 1)] == [
        expected.images.mask_hw(i) for i in (0, 1)
    ]
