"""Labels equal those of the slow reference, columns are near: at every pixel, by cells, sampled."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ovseg_core.decision.decide import Decision, decide_one
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.decision.refine.pamr import Pamr, Refinement
from ovseg_core.images.resize.stitching import AxisStitch, Stitch
from ovseg_core.segmenter import DecisionRule, ScoreMaps
from schemas.config import MaskConfig
from tests.helpers import slow_decision

MEANS = ("mean_prob", "margin_mean", "entropy_mean", "boundary_uncertainty", "objectness_mean")


def _levels(draw: st.DrawFn, generator: torch.Generator, num_phrases: int) -> tuple:
    """One map or two; rounded scores have exact ties, and so have phrases that occur twice."""
    rounded = draw(st.sampled_from([0, 0, 8, 1000]))
    levels = []
    for _ in range(draw(st.integers(1, 2))):
        size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        level = torch.randn((num_phrases, *size), generator=generator) / 8
        if rounded:
            level = (level * rounded).round() / rounded
        if draw(st.booleans()):
            level[-1] = level[0]
        levels.append(level)
    return tuple(levels)


def _stitch(draw: st.DrawFn) -> Stitch:
    rows, columns = (
        AxisStitch(((0, 8), (offset, offset + 8)), 2, (0, 0))
        for offset in (draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    )
    return Stitch(rows, columns)


@st.composite
def score_maps(draw: st.DrawFn) -> ScoreMaps:
    """All that can be set, in any combination."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    num_classes = draw(st.integers(2, 9))
    domain = draw(st.sampled_from(["cosine", "score", "prob"]))
    num_phrases, rule = num_classes, None
    if draw(st.booleans()):
        if domain != "prob":
            num_phrases = num_classes + draw(st.integers(0, 3))
        owners = torch.randint(0, num_classes, (num_phrases,), generator=generator)
        rule = DecisionRule(
            class_index_Q=owners.sort().values,
            num_classes=num_classes,
            probability_threshold=draw(st.sampled_from([0.0, 0.0, 0.3])),
            area_threshold=draw(st.sampled_from([0.0, 0.1, 0.3])),
        )
    levels, stitches = _levels(draw, generator, num_phrases), None
    if draw(st.booleans()):
        levels = (torch.randn((num_phrases, 4, 4), generator=generator) / 8,)
        stitches = (_stitch(draw),) * 2
    shown = (torch.rand((3, 4), generator=generator), torch.rand((5, 2), generator=generator))
    fusion = draw(st.sampled_from(["none", "foreground_gate", "complement_product"]))
    regions = torch.randint(-1, 5, (7, 6), generator=generator)
    return ScoreMaps(
        levels=(levels, levels),
        canvas_hw=None,
        objectness=shown if fusion != "none" or draw(st.booleans()) else None,
        fusion=fusion,
        domain=domain,
        logit_scale=draw(st.sampled_from([1.0, 20.0, 100.0])),
        stitches=stitches,
        rule=rule,
        regions=((regions,), (regions, regions.T)) if draw(st.booleans()) else None,
    )


@given(score_maps(), st.integers(1, 110), st.integers(1, 110), st.integers(0, 1))
@settings(max_examples=150)
def test_labels_equal_those_of_every_pixel(maps, height, width, index):
    expected = slow_decision.decide_one(maps, index, (height, width))
    found = decide_one(maps, index, (height, width), sampled_from_px=0)
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    assert found.label_map.dtype == np.uint16
    for values in (found.confidence, found.margin, found.entropy, found.class_max_prob):
        assert values.min() >= 0
        assert values.max() <= 1
    if found.samples is not None:
        assert found.samples.weights.sum() == height * width
        painted = np.bincount(
            found.label_map[found.samples.rows, found.samples.columns], found.samples.weights
        )
        np.testing.assert_allclose(painted, np.bincount(expected.label_map.ravel()))


def smooth_maps(num_classes: int, logit_scale: float, seed: int = 0, **changes) -> ScoreMaps:
    """Scores as of a photograph: objects of some patches."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(channels: int) -> torch.Tensor:
        coarse = torch.randn((channels, 5, 6), generator=generator)
        return functional.interpolate(coarse[None], (18, 24), mode="bicubic")[0]

    fields = {
        "levels": tuple((smooth(num_classes) * 0.05,) for _ in range(2)),
        "canvas_hw": None,
        "objectness": tuple(smooth(1)[0].sigmoid() for _ in range(2)),
        "fusion": "none",
        "domain": "cosine",
        "logit_scale": logit_scale,
    }
    return ScoreMaps(**{**fields, **changes})


def compare(found: Decision, expected: Decision, size_hw: tuple[int, int], **bounds: float) -> None:
    """Rows of two decisions have the same masks, and columns that differ by at most the bounds."""
    bounds = {"mean": 1e-3, "p10": 1e-3, "highest": 1e-3} | bounds
    names = [f"label {number}" for number in range(1, len(expected.class_mean_prob))]
    for mode in ("class", "components"):
        config = MaskConfig(segments=mode)
        slow = image_rows(expected, size_hw, names, config)
        fast = image_rows(found, size_hw, names, config)
        assert len(fast.segments) == len(slow.segments)
        for one, other in zip(fast.segments, slow.segments, strict=True):
            for name in ("rle_counts", "area_px", "bbox_xywh", "num_components", "label"):
                assert getattr(one, name) == getattr(other, name)
            for name in MEANS:
                difference = abs(getattr(one, name) - getattr(other, name))
                assert difference <= bounds["mean"], (mode, name)
            assert abs(one.margin_p10 - other.margin_p10) <= bounds["p10"]
        assert abs(fast.review_priority - slow.review_priority) <= bounds["mean"]
    np.testing.assert_allclose(found.class_mean_prob, expected.class_mean_prob, atol=1e-4)
    highest = np.abs(found.class_max_prob - expected.class_max_prob)
    assert highest.max() <= bounds["highest"]


@given(score_maps(), st.integers(1, 110), st.integers(1, 110), st.integers(0, 1))
@settings(max_examples=100, deadline=None)
def test_columns_of_up_to_a_megapixel_are_those_of_every_pixel(maps, height, width, index):
    expected = slow_decision.decide_one(maps, index, (height, width))
    found = decide_one(maps, index, (height, width))
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    assert found.samples is None
    for name in ("confidence", "margin", "entropy", "objectness", "class_max_prob"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), atol=1e-4, err_msg=name
        )
    compare(found, expected, (height, width))


GATED = {
    "fusion": "foreground_gate",
    "rule": DecisionRule(torch.tensor([0, 1, 1, 2, 3, 3, 3, 4]), 5, area_threshold=0.05),
    "regions": ((torch.arange(12).view(3, 4),),) * 2,
}


def _of_probabilities() -> ScoreMaps:
    maps = smooth_maps(6, 1.0, domain="prob")
    levels = tuple(((level * 40).softmax(0),) for (level,) in maps.levels)
    return replace(maps, levels=levels)


def _with_large_objectness(size_hw: tuple[int, int]) -> ScoreMaps:
    coarse = torch.rand((2, 1, 9, 7), generator=torch.Generator().manual_seed(0))
    shown = functional.interpolate(coarse, size_hw, mode="bilinear")[:, 0]
    return smooth_maps(9, 40.0, fusion="foreground_gate", objectness=tuple(shown))


@pytest.mark.parametrize(
    ("maps", "size_hw"),
    [
        (smooth_maps(21, 40.0), (900, 1200)),
        (smooth_maps(8, 40.0, **GATED), (1107, 951)),
        (_with_large_objectness((850, 1250)), (850, 1250)),
        (_of_probabilities(), (1210, 870)),
    ],
    ids=["plain", "gate and vote", "large objectness", "probabilities"],
)
def test_columns_of_a_larger_canvas_are_near(maps, size_hw):
    expected = slow_decision.decide_one(maps, 1, size_hw)
    found = decide_one(maps, 1, size_hw)
    assert found.samples is not None
    assert found.samples.weights.sum() == math.prod(size_hw)
    # Where a fine objectness map has its kinks is not known: a peak may lie beside the samples.
    is_fine = maps.objectness[1].shape == size_hw
    compare(found, expected, size_hw, p10=5e-3, highest=5e-3 if is_fine else 1e-3)


@pytest.mark.parametrize("size_hw", [(37, 401), (1, 300), (301, 2)])
def test_blocks_need_not_fit_the_canvas(size_hw):
    maps = smooth_maps(5, 40.0)
    expected = slow_decision.decide_one(maps, 0, size_hw)
    found = decide_one(maps, 0, size_hw, sampled_from_px=0)
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    assert found.samples is not None
    labels = found.label_map[found.samples.rows, found.samples.columns]
    areas = np.bincount(labels, found.samples.weights)
    np.testing.assert_allclose(areas, np.bincount(expected.label_map.ravel()))


def test_scores_that_are_not_bilinear_keep_every_pixel():
    guides = tuple(torch.rand(3, 20, 30) for _ in range(2))
    maps = smooth_maps(3, 40.0, refinement=Refinement(Pamr(1, (1,)), guides))
    assert decide_one(maps, 0, (300, 400), sampled_from_px=0).samples is None


def test_a_canvas_that_is_resized_to_the_image_keeps_every_pixel():
    maps = smooth_maps(3, 40.0, canvas_hw=(300, 400))
    assert decide_one(maps, 0, (150, 900), sampled_from_px=0).samples is None
