"""Copies of drawn scenes are the same picture, other scenes are not."""

import numpy as np
from PIL import Image

from jobs.demo.scenes import draw_scene
from pipeline.curation.same_picture import (
    SAME_FROM,
    STRETCHED_FROM,
    are_same,
    correlation,
    small_picture,
)
from tests.helpers.copied_images import copies


def test_copies_are_the_same_picture_and_other_scenes_are_not():
    scenes = [draw_scene(seed).image for seed in range(40)]
    small = [small_picture(scene) for scene in scenes]
    small += [
        small_picture(copy) for seed, scene in enumerate(scenes) for copy in copies(scene, seed)
    ]
    of_scene = np.array([*range(40), *np.repeat(np.arange(40), 4)])
    same = correlation(small, of_scene[40:], np.arange(40, 200))
    assert same.min() >= SAME_FROM
    first, second = np.triu_indices(40, 1)
    others = correlation(small, first, second)
    assert others.max() < SAME_FROM
    backwards = correlation(small, second, first)
    assert np.allclose(backwards, others, atol=1e-6), "neither comes first"


def test_an_image_of_one_colour_correlates_with_nothing():
    small = [small_picture(np.full((30, 40, 3), value, np.uint8)) for value in (0, 0, 200)]
    small.append(small_picture(draw_scene(1).image))
    found = correlation(small, np.array([0, 0, 2]), np.array([1, 2, 3]))
    assert np.abs(found).max() < 0.1


def test_a_tall_picture_and_a_wide_one_are_the_same_only_if_one_is_stretched():
    scene = draw_scene(3).image
    height, width = scene.shape[:2]
    stretched = np.asarray(Image.fromarray(scene).resize((height // 2, width)))
    small = [small_picture(one) for one in (scene, stretched)]
    found = correlation(small, np.array([0]), np.array([1]))
    assert found > STRETCHED_FROM
    ratio, other, cropped = (np.array([one]) for one in (height / width, width / height, 1.05))
    assert are_same(found, ratio, other).all()
    alike = np.array([(SAME_FROM + STRETCHED_FROM) / 2], np.float32)
    assert not are_same(alike, ratio, other).any()
    assert not are_same(alike, other, ratio).any()
    assert are_same(alike, ratio, ratio * cropped).all()
