"""Copies of drawn scenes are the same picture, other scenes are not."""

import numpy as np

from jobs.demo.scenes import draw_scene
from pipeline.curation.same_picture import SAME_FROM, correlation, small_picture
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
