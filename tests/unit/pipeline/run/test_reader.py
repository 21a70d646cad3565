"""The finished part of a run: how its masks become label maps."""

import numpy as np

from pipeline.run.reader import RunReader, bottom_first
from tests.helpers.drawn_runs import (
    RunSpec,
    Scene,
    crowded_run,
    crowded_scene,
    label_map,
    make_run,
)


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


def test_reader_of_some_images_counts_these_alone(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(7)]
    scenes[1] = Scene("1.png", None)  # failed, as does the fifth
    scenes[4] = Scene("4.png", None)
    run = make_run(tmp_path, scenes, RunSpec(shard_size=3, unfinished=(2,)))
    whole = RunReader(run)
    assert (whole.num_images, whole.errors, whole.num_left) == (4, {"truncated": 2}, 1)
    some = RunReader(run, frozenset(f"id-{n}.png" for n in (0, 1, 5, 6)))
    assert (some.num_images, some.errors, some.num_left) == (2, {"truncated": 1}, 1)
    assert some.num_unwanted == 2
    assert [list(shard.images) for shard in some.shards()] == [["id-0.png"], ["id-5.png"]]
    none_failed = RunReader(run, frozenset({"id-0.png"}))
    assert (none_failed.errors, none_failed.num_left) == ({}, 0)
