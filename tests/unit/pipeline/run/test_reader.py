"""The finished part of a run: how its masks become label maps."""

import numpy as np

from pipeline.run.reader import RunReader, bottom_first
from tests.helpers.drawn_runs import crowded_run, crowded_scene


def test_instances_are_painted_in_order_of_rising_score(tmp_path):
    run = crowded_run(tmp_path)
    left, right, dog, _ = (mask for _, _, mask in crowded_scene("").instances)
    expected = np.zeros(left.shape, np.uint16)
    expected[right], expected[dog], expected[left] = 1, 2, 1  # the plant is under the dog
    maps = {
        image["path"]: found for s in RunReader(run).shards() for image, found in s.label_maps()
    }
    np.testing.assert_array_equal(maps["a/one.png"], expected)
    np.testing.assert_array_equal(maps["turned.jpg"], expected)
    assert maps["nothing.png"].shape == (12, 20)
    assert not maps["nothing.png"].any()


def test_masks_of_people_lie_over_predicted_ones_and_small_ones_over_large_ones():
    rows = [
        {"kind": "instance", "mean_prob": 0.9, "area_px": 10},
        {"kind": "instance", "mean_prob": 0.2, "area_px": 10, "verdict": "accepted"},
        {"kind": "instance", "mean_prob": 0.9, "area_px": 12},
        {"kind": "instance", "mean_prob": 0.5, "area_px": 5},
    ]
    assert bottom_first(rows) == [3, 2, 0, 1]


def test_masks_that_are_no_instances_have_no_order_by_score():
    rows = [{"mean_prob": 0.9, "area_px": 3}, {"mean_prob": 0.2, "area_px": 3}]
    assert bottom_first(rows) == [0, 1]
