"""Copies of drawn scenes are the same picture, other scenes are not."""

import io

import numpy as np
from PIL import Image, ImageOps

from jobs.demo.scenes import draw_scene
from pipeline.curation.same_picture import SAME_FROM, correlation, small_picture


def copies(rgb: np.ndarray, seed: int) -> list[np.ndarray]:
    """JPEG of quality 30, 5 % cut off, mirrored, half the size."""
    image = Image.fromarray(rgb)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    width, height = image.size
    kept = round(0.95 * width), round(0.95 * height)
    rng = np.random.default_rng(seed)
    left, top = rng.integers(0, (width - kept[0] + 1, height - kept[1] + 1)).tolist()
    return [
        np.asarray(Image.open(file).convert("RGB")),
        np.asarray(image.crop((left, top, left + kept[0], top + kept[1]))),
        np.asarray(ImageOps.mirror(image)),
        np.asarray(image.resize((width // 2, height // 2))),
    ]


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
