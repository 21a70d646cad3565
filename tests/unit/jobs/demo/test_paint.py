"""Colours, patterns and backgrounds."""

import numpy as np
import pytest

from jobs.demo.paint import COLOURS, PATTERNS, background, object_colour, pattern_weight


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_weight_is_between_0_and_1_and_shows_both_tones(pattern: str) -> None:
    weight = pattern_weight(pattern, (40, 56), 9.0, np.random.default_rng(0))
    assert weight.shape == (40, 56)
    assert weight.dtype == np.float32
    assert weight.min() == 0
    assert weight.max() == (0 if pattern == "solid" else 1)


def test_object_colours_differ_more_between_names_than_within_one() -> None:
    rng = np.random.default_rng(0)
    drawn = {name: np.stack([object_colour(name, rng) for _ in range(20)]) for name in COLOURS}
    means = {name: colours.mean(axis=0) for name, colours in drawn.items()}
    for name, colours in drawn.items():
        distances = {other: np.linalg.norm(colours - mean, axis=1) for other, mean in means.items()}
        nearest = [min(distances, key=lambda other: distances[other][i]) for i in range(20)]
        assert nearest == [name] * 20


def test_background_has_the_size_and_the_range_of_pixels() -> None:
    for seed in range(12):
        image = background((30, 44), np.random.default_rng(seed))
        assert image.shape == (30, 44, 3)
        assert 0 <= image.min() <= image.max() <= 255
