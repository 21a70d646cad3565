"""Drawn scenes and their truth."""

import hashlib

import numpy as np
import pytest

from jobs.demo.paint import COLOURS
from jobs.demo.scenes import (
    HELD_OUT_PAIRS,
    DrawnObject,
    Layout,
    all_phrases,
    draw_crop,
    draw_objects,
    draw_scene,
)
from jobs.demo.shapes import SHAPES


def _pair(phrase: str) -> tuple[str, str]:
    colour, _, shape = phrase.split()
    return colour, shape


def test_all_phrases_are_384_with_14_held_out_pairs():
    assert len(set(all_phrases())) == 384
    assert len(HELD_OUT_PAIRS) == 14
    assert {_pair(p) for p in all_phrases(held_out=True)} == HELD_OUT_PAIRS
    assert set(all_phrases(True)) | set(all_phrases(False)) == set(all_phrases())
    # Every word is met in training, only not every pair.
    seen = {_pair(p) for p in all_phrases(held_out=False)}
    assert {c for c, _ in seen} == set(COLOURS)
    assert {s for _, s in seen} == set(SHAPES)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_scene_shows_what_its_labels_say(seed: int, held_out: bool):
    scene = draw_scene(seed, (96, 136), held_out=held_out)
    assert scene.image.shape == (96, 136, 3)
    assert scene.image.dtype == np.uint8
    assert scene.label_map.shape == (96, 136)
    assert scene.label_map.dtype == np.int16
    assert set(np.unique(scene.label_map)) - {0} == set(range(1, len(scene.labels) + 1))
    assert len(set(scene.labels)) == len(scene.labels)
    assert all((_pair(p) in HELD_OUT_PAIRS) == held_out for p in scene.labels)


def test_scene_depends_on_the_seed_only():
    one, same, other = draw_scene(3), draw_scene(3), draw_scene(4)
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.label_map, same.label_map)
    assert one.labels == same.labels
    assert not np.array_equal(one.image, other.image)


def test_num_objects_limits_the_objects():
    scene = draw_scene(0, num_objects=1)
    assert len(scene.labels) == 1
    assert (scene.label_map == 1).sum() > 200


def test_draw_crop_shows_one_object():
    image, thing = draw_crop(np.random.default_rng(0), 48, held_out=True)
    assert image.shape == (48, 48, 3)
    assert (thing.colour, thing.shape) in HELD_OUT_PAIRS
    assert 0.22 * 48 <= thing.radius_px <= 0.46 * 48


@pytest.mark.parametrize(
    ("seed", "arguments", "digest", "mean_grey"),
    [
        (0, {}, "2a09944266aa39fd", 106.007),
        (7, {"held_out": True}, "b781fec5301e9623", 102.379),
        (11, {"size_hw": (96, 136), "num_objects": 6}, "3f79c3b4a652ce84", 149.335),
    ],
)
def test_scenes_equal_those_of_earlier_versions(
    seed: int, arguments: dict, digest: str, mean_grey: float
):
    """Figures in the model card and in docs/quality.md are of these scenes."""
    scene = draw_scene(seed, **arguments)
    assert hashlib.sha256(scene.label_map.tobytes()).hexdigest()[:16] == digest
    assert scene.image.mean() == pytest.approx(mean_grey, abs=0.01)


def _drawn(seed: int, layout: Layout | None) -> tuple[np.ndarray, tuple[DrawnObject, ...]]:
    _, instances, things = draw_objects(np.random.default_rng(seed), (96, 136), 4, False, layout)
    return instances, things


def _contact_px(instances: np.ndarray) -> int:
    """Pixels that meet another object at their right or lower side."""
    pairs = ((instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1]))
    return sum(int(((one != other) & (one > 0) & (other > 0)).sum()) for one, other in pairs)


def test_layout_radii_limit_object_sizes():
    for seed in range(6):
        _, things = _drawn(seed, Layout(radii=(0.07, 0.11)))
        assert all(0.07 * 96 <= thing.radius_px <= 0.11 * 96 for thing in things)


def test_layout_min_visible_and_beside_change_occlusion():
    apart = Layout(radii=(0.13, 0.27), min_visible=0.97, attempts=200)
    close = Layout(radii=(0.13, 0.27), min_visible=0.35, beside=(0.45, 0.8), attempts=50)
    contacts = [
        sum(_contact_px(_drawn(seed, layout)[0]) for seed in range(12))
        for layout in (apart, None, close)
    ]
    assert 2 * contacts[0] < contacts[1] < 0.7 * contacts[2]
