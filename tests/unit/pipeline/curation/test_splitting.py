"""Splits: groups stay together, shares and labels are kept as far as that allows."""

import numpy as np
import pytest

from pipeline.curation.splitting import deal_out, joined_groups


def test_groups_stay_together_and_labels_are_spread():
    rng = np.random.default_rng(0)
    num_images = 1000
    group = rng.integers(0, 400, num_images)
    groups = joined_groups(num_images, [group])
    labels = rng.random((num_images, 6)) < np.array([0.5, 0.3, 0.1, 0.05, 0.02, 0.01])
    found = deal_out(groups, labels, [0.7, 0.2, 0.1], seed=1)
    for number in np.unique(group):
        assert len(set(found.part_N[group == number])) == 1
    assert np.bincount(found.part_N) / num_images == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    for column in labels.T:
        shares = np.bincount(found.part_N[column], minlength=3) / column.sum()
        assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.02 + 2 / column.sum())
    again = deal_out(groups, labels, [0.7, 0.2, 0.1], seed=1)
    other = deal_out(groups, labels, [0.7, 0.2, 0.1], seed=2)
    assert (again.part_N == found.part_N).all()
    assert (other.part_N != found.part_N).any()
    assert found.num_groups == len(np.unique(group))
    assert found.largest == np.bincount(group).max()


def test_label_of_two_groups_is_in_both_parts():
    labels = np.zeros((100, 2), bool)
    labels[:, 0] = True
    labels[[3, 60], 1] = True
    found = deal_out(np.arange(100), labels, [0.5, 0.5], seed=0)
    assert found.part_N[3] != found.part_N[60]
    assert np.bincount(found.part_N).tolist() == [50, 50]


def test_images_without_labels_are_dealt_out_too():
    found = deal_out(np.arange(40), np.zeros((40, 3), bool), [0.75, 0.25], seed=0)
    assert np.bincount(found.part_N).tolist() == [30, 10]


def test_groupings_are_joined_where_they_share_an_image():
    near = np.array([0, 0, -1, -1, 1, 1, -1])
    folder = np.array([5, 6, 6, 7, 7, -1, -1])
    groups = joined_groups(7, [near, folder])
    assert groups.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert joined_groups(3, []).tolist() == [0, 1, 2]
    assert len(set(joined_groups(4, [np.full(4, -1)]).tolist())) == 4


def test_one_large_group_goes_where_most_images_are_wanted():
    groups = np.repeat([0, 1, 2, 3], [70, 10, 10, 10])
    labels = np.ones((100, 1), bool)
    found = deal_out(groups, labels, [0.8, 0.2], seed=0)
    assert set(found.part_N[:70]) == {0}
    assert np.bincount(found.part_N).tolist() == [80, 20]
