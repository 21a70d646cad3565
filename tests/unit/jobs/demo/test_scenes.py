import hashlib

import numpy as np
import pytest

from jobs.demo.paint import COLOURS
from jobs.demo.scenes import (
    HELD_OUT_PAIRS,
    Layout,
    Thing,
    all_phrases,
    draw_crop,
    draw_scene,
    draw_things,
)
from jobs.demo.shapes import SHAPES, silhouette


def _pair(phrase: str) -> tuple[str, str]:
    colour, _, shape = phrase.split()
    return colour, shape


def test_the_world_has_384_phrases_of_which_14_pairs_are_held_out():
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
def test_a_scene_holds_what_its_labels_say(seed: int, held_out: bool):
    scene = draw_scene(seed, (96, 136), held_out=held_out)
    assert scene.image.shape == (96, 136, 3)
    assert scene.image.dtype == np.uint8
    assert scene.label_map.shape == (96, 136)
    assert scene.label_map.dtype == np.int16
    assert set(np.unique(scene.label_map)) - {0} == set(range(1, len(scene.labels) + 1))
    assert len(set(scene.labels)) == len(scene.labels)
    assert all((_pair(p) in HELD_OUT_PAIRS) == held_out for p in scene.labels)


def test_the_seed_decides_everything():
    one, same, other = draw_scene(3), draw_scene(3), draw_scene(4)
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.label_map, same.label_map)
    assert one.labels == same.labels
    assert not np.array_equal(one.image, other.image)


def test_the_number_of_objects_can_be_asked_for():
    scene = draw_scene(0, num_objects=1)
    assert len(scene.labels) == 1
    assert (scene.label_map == 1).sum() > 200


@pytest.mark.parametrize("shape", SHAPES)
def test_silhouettes_fill_their_tile_without_touching_its_border(shape: str):
    mask = silhouette(shape, 64, 24.0, 0.2)
    assert mask.shape == (64, 64)
    assert 0.1 < mask.mean() < 0.6
    assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0.0


def test_shapes_differ_from_each_other():
    masks = [silhouette(shape, 48, 20.0, 0.0) for shape in SHAPES]
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            overlap = np.minimum(one, other).sum() / np.maximum(one, other).sum()
            assert overlap < 0.9


def test_a_crop_shows_one_object_of_the_asked_kind():
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
def test_scenes_of_earlier_versions_are_drawn_as_they_were(
    seed: int, arguments: dict, digest: str, mean_grey: float
):
    """Figures in the model card and the README are of these scenes."""
    scene = draw_scene(seed, **arguments)
    assert hashlib.sha256(scene.label_map.tobytes()).hexdigest()[:16] == digest
    assert scene.image.mean() == pytest.approx(mean_grey, abs=0.01)


def _drawn(seed: int, layout: Layout | None) -> tuple[np.ndarray, tuple[Thing, ...]]:
    _, instances, things = draw_things(np.random.default_rng(seed), (96, 136), 4, False, layout)
    return instances, things


def _contact_px(instances: np.ndarray) -> int:
    """Pixels that meet another object at their right or lower side."""
    pairs = ((instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1]))
    return sum(int(((one != other) & (one > 0) & (other > 0)).sum()) for one, other in pairs)


def test_a_layout_says_how_large_objects_are():
    for seed in range(6):
        _, things = _drawn(seed, Layout(radii=(0.07, 0.11)))
        assert all(0.07 * 96 <= thing.radius_px <= 0.11 * 96 for thing in things)


def test_a_layout_says_how_much_objects_hide_each_other():
    apart = Layout(radii=(0.13, 0.27), min_visible=0.97, attempts=200)
    close = Layout(radii=(0.13, 0.27), min_visible=0.35, beside=(0.45, 0.8), attempts=50)
    contacts = [
        sum(_contact_px(_drawn(seed, layout)[0]) for seed in range(12))
        for layout in (apart, None, close)
    ]
    assert 2 * contacts[0] < contacts[1] < 0.7 * contacts[2]
