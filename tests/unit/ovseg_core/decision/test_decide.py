import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from ovseg_core.decision.decide import decide, decide_one
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.segmenter import DecisionRule, ScoreMaps
from schemas.config import MaskConfig
from schemas.errors import ErrorCode, ImageError
from tests.helpers import slow_decision


def _maps(seed=0, batch=2, classes=4, canvas=(24, 36), **changes):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=generator)

    fields = {
        "levels": tuple((rand(classes, 1, 1), rand(classes, 5, 7)) for _ in range(batch)),
        "canvas_hw": canvas,
        "objectness": tuple(rand(6, 9) for _ in range(batch)),
        "fusion": "complement_product",
        "domain": "cosine",
        "logit_scale": 7.0,
    }
    return ScoreMaps(**{**fields, **changes})


def _plain(maps, index, size):
    """The whole recipe at once, on full (K, Hc, Wc) arrays."""

    def up(x):
        return functional.interpolate(x[None], maps.canvas_hw or size, mode="bilinear")[0]

    scores = sum(up(level) for level in maps.levels[index]) / len(maps.levels[index])
    objectness = None if maps.objectness is None else up(maps.objectness[index][None])[0]
    if maps.fusion == "complement_product":
        scores = torch.cat([scores[:1] * (1 - objectness), scores[1:] * objectness])
    return scores, objectness


@pytest.mark.parametrize("canvas", [(24, 36), None, (200, 150)])
@pytest.mark.parametrize("fusion", ["none", "complement_product"])
def test_decide_equals_the_recipe_on_full_arrays(canvas, fusion):
    maps, sizes = _maps(canvas=canvas, fusion=fusion), [(50, 70), (33, 21)]
    for index, decision in enumerate(decide(maps, sizes)):
        scores, _ = _plain(maps, index, sizes[index])
        probs = (scores * 7.0).softmax(0)
        top = probs.topk(2, dim=0).values
        np.testing.assert_array_equal(decision.label_map, scores.argmax(0).numpy())
        assert decision.label_map.shape == (canvas or sizes[index])
        np.testing.assert_allclose(decision.confidence, top[0], atol=1e-5)
        np.testing.assert_allclose(decision.margin, top[0] - top[1], atol=1e-5)
        entropy = torch.special.entr(probs).sum(0) / math.log(4)
        np.testing.assert_allclose(decision.entropy, entropy, atol=1e-5)


@pytest.mark.parametrize("size", [(50, 70), (24, 36), (11, 13), (7, 80)])
def test_class_probabilities_are_those_of_the_image_not_of_the_canvas(size):
    maps = _maps()
    decision = decide_one(maps, 1, size)
    probs = (_plain(maps, 1, size)[0] * 7.0).softmax(0)
    rows = torch.arange(size[0]) * 24 // size[0]
    full = probs[:, rows][:, :, torch.arange(size[1]) * 36 // size[1]]
    np.testing.assert_allclose(decision.class_mean_prob, full.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(decision.class_max_prob, full.amax((1, 2)), atol=1e-5)


def test_gate_takes_background_at_or_under_one_half_and_the_best_label_above():
    objectness = torch.tensor([[0.5, 0.51, 0.9], [0.2, 1.0, 0.0]])
    levels = torch.tensor([9.0, 0.1, 0.3]).view(3, 1, 1).expand(3, 2, 3)
    maps = ScoreMaps(
        ((levels,), (levels,)), (2, 3), (objectness, objectness), "foreground_gate", "cosine", 1
    )
    decision = decide(maps, [(2, 3), (4, 9)])[1]
    np.testing.assert_array_equal(decision.label_map, [[0, 2, 2], [0, 2, 0]])
    share = 1 / (1 + math.exp(-0.2))
    np.testing.assert_allclose(decision.confidence[0], [0.5, 0.51 * share, 0.9 * share], atol=1e-6)
    np.testing.assert_allclose(decision.objectness, objectness)
    assert (decision.margin[0, 1], decision.margin[1, 2]) == (0.0, 1.0)


def test_ties_go_to_the_lowest_index():
    maps = _maps(levels=((torch.ones(4, 3, 5),), (torch.zeros(4, 3, 5),)), fusion="none")
    assert all((d.label_map == 0).all() for d in decide(maps, [(9, 8), (7, 6)]))


def test_probability_scores_are_normalised_and_never_leave_zero_to_one():
    scores = torch.tensor([0.2, 0.2, 0.0, -0.1]).view(4, 1, 1).expand(4, 2, 3)
    maps = _maps(levels=((scores,), (scores * 0,)), domain="prob", fusion="none", objectness=None)
    first, second = decide(maps, [(9, 8), (7, 6)])
    np.testing.assert_allclose(first.confidence, 0.5)
    np.testing.assert_allclose(first.class_max_prob, [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(first.entropy, 0.5, atol=1e-6)
    np.testing.assert_allclose(second.class_mean_prob, 0.25)
    assert (first.objectness == 1).all()


def test_result_does_not_depend_on_the_bands():
    whole = decide_one(_maps(), 0, (48, 60))
    banded = decide_one(_maps(), 0, (48, 60), band_elements=1)
    np.testing.assert_array_equal(whole.label_map, banded.label_map)
    for name in ("confidence", "margin", "entropy", "objectness"):
        np.testing.assert_allclose(getattr(whole, name), getattr(banded, name), atol=1e-6)
    np.testing.assert_allclose(whole.class_mean_prob, banded.class_mean_prob)


def test_half_precision_scores_are_taken():
    maps = _maps(levels=((torch.rand(300, 3, 5).half(),),), objectness=None, fusion="none")
    decision = decide_one(maps, 0, (31, 17))
    assert decision.label_map.max() > 255
    assert decision.confidence.dtype == np.float32


GROUPS = torch.tensor([0, 0, 1, 2, 2, 2, 3])


def _phrase_maps(**rule):
    levels = _maps(classes=len(GROUPS)).levels
    rule = DecisionRule(GROUPS, 4, **rule)
    changes = {"levels": levels, "fusion": "none", "objectness": None, "logit_scale": 20.0}
    return _maps(**{**changes, "rule": rule})


def _plain_classes(maps, index, size):
    probs = (_plain(maps, index, size)[0] * maps.logit_scale).softmax(0)
    return torch.stack([probs[maps.rule.class_index_Q == k].amax(0) for k in range(4)])


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_a_class_has_the_probability_of_its_best_phrase(threshold):
    maps = _phrase_maps(probability_threshold=threshold)
    for index, size in enumerate([(50, 70), (33, 21)]):
        decision = decide_one(maps, index, size, band_elements=1000)
        classes = _plain_classes(maps, index, None)
        expected = classes.argmax(0).masked_fill(classes.amax(0) < threshold, 0)
        np.testing.assert_array_equal(decision.label_map, expected)
        share = classes / classes.sum(0)
        np.testing.assert_allclose(
            decision.confidence, share.gather(0, expected[None])[0], atol=1e-5
        )
        assert not threshold or (expected == 0).any()


def test_a_label_of_small_area_leaves_its_pixels_to_the_next():
    maps = _phrase_maps(area_threshold=0.3)
    classes = _plain_classes(maps, 0, None)
    won = classes.argmax(0).flatten().bincount(minlength=4)[1:]
    small = won <= 0.3 * won.sum()
    assert small.any()
    assert not small.all()
    classes[1:][small] = 0
    np.testing.assert_array_equal(decide_one(maps, 0, (9, 8)).label_map, classes.argmax(0))


def test_a_class_without_phrases_is_never_chosen():
    maps = _phrase_maps()
    rule = DecisionRule(torch.tensor([1, 1, 2, 2, 3, 3, 3]), 4)
    decision = decide_one(replace(maps, rule=rule), 0, (9, 8))
    assert decision.label_map.min() > 0
    assert decision.class_max_prob[0] == 0


def test_as_many_phrases_as_classes_are_not_taken_for_one_each():
    """Background has no phrase and one label a synonym: four phrases, four classes."""
    rule = DecisionRule(torch.tensor([1, 2, 2, 3]), 4)
    maps = replace(_phrase_maps(), levels=_maps(classes=4).levels, rule=rule)
    phrases = _plain(maps, 0, None)[0].argmax(0)
    expected = rule.class_index_Q[phrases]
    decision = decide_one(maps, 0, (50, 70))
    np.testing.assert_array_equal(decision.label_map, expected)
    assert decision.class_max_prob[0] == 0


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({}, [(5, 6)], "a size for each of the 2 images"),
        ({"objectness": None}, [(5, 6), (7, 8)], "needs objectness"),
        ({"levels": ((torch.ones(1, 2, 3),),) * 2}, [(5, 6), (7, 8)], "K >= 2"),
        ({"levels": ((), ())}, [(5, 6), (7, 8)], "K >= 2"),
    ],
)
def test_decide_refuses_maps_that_do_not_fit(changes, sizes, message):
    with pytest.raises(ValueError, match=message):
        decide(_maps(**changes), sizes)


def test_a_rule_of_probabilities_keeps_its_threshold() -> None:
    level = torch.tensor([[0.2, 0.1], [0.3, 0.7], [0.1, 0.2]])[:, None, :]
    rule = DecisionRule(torch.arange(3), 3, probability_threshold=0.5)
    maps = ScoreMaps(((level,),), None, None, "none", "prob", 1.0, rule=rule)
    (decision,) = decide(maps, [(1, 2)])
    assert decision.label_map.tolist() == [[0, 1]]


@pytest.mark.parametrize("where", ["levels", "objectness"])
def test_scores_that_are_not_finite_are_an_error_of_the_image(where):
    maps = _maps()
    broken = maps.levels[1][1].clone() if where == "levels" else maps.objectness[1].clone()
    broken[..., 2, 1] = torch.nan
    change = (maps.levels[0], (broken,)) if where == "levels" else (maps.objectness[0], broken)
    maps = replace(maps, **{where: change})
    assert decide_one(maps, 0, (50, 70)).label_map.shape == (24, 36)
    with pytest.raises(ImageError) as error:
        decide_one(maps, 1, (50, 70))
    assert error.value.code is ErrorCode.NOT_FINITE


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10)])
def test_images_of_odd_shapes_are_decided(size):
    changes = {"canvas": None, "fusion": "none", "objectness": None}
    found = decide_one(_maps(**changes), 1, size)
    expected = slow_decision.decide_one(_maps(**changes), 1, size)
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    assert len(image_rows(found, size, "abc", MaskConfig()).segments) == len(
        image_rows(expected, size, "abc", MaskConfig()).segments
    )


def test_two_thousand_labels_are_decided():
    levels = ((torch.rand(2001, 3, 4),), (torch.rand(2001, 3, 4),))
    maps = _maps(levels=levels, canvas=None, fusion="none", objectness=None)
    found = decide_one(maps, 1, (64, 80), sampled_from_px=0)
    expected = slow_decision.decide_one(maps, 1, (64, 80))
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    assert found.samples is not None
    names = [str(number) for number in range(2000)]
    assert image_rows(found, (64, 80), names, MaskConfig()).segments


class _OnSmallDevice(torch.Tensor):
    """Scores on a device that cannot hold a product of more than so many numbers."""

    largest = 0
    refused = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        if "matmul" in func.__name__ and result.numel() > cls.largest:
            cls.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result


@pytest.mark.parametrize(("largest", "fits"), [(40_000, True), (100, False)])
def test_out_of_memory_halves_the_bands(largest, fits):
    plain = _maps(canvas=(256, 256), classes=9, fusion="none", objectness=None)
    levels = tuple(
        tuple(level.as_subclass(_OnSmallDevice) for level in one) for one in plain.levels
    )
    _OnSmallDevice.largest, _OnSmallDevice.refused = largest, 0
    maps = replace(plain, levels=levels)
    if not fits:
        with pytest.raises(torch.OutOfMemoryError):
            decide_one(maps, 1, (90, 70))
        return
    found = decide_one(maps, 1, (90, 70))
    assert _OnSmallDevice.refused > 1
    np.testing.assert_array_equal(found.label_map, decide_one(plain, 1, (90, 70)).label_map)
