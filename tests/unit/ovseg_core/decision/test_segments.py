"""Cutting label maps; the laws for any map are in tests/property/test_masks.py."""

import numpy as np

from ovseg_core.decision.segments import cut_segments

LABELS = np.array([[2, 0, 1, 1], [0, 2, 0, 0], [0, 0, 0, 2]], np.uint16)


def test_class_segments_count_their_components():
    cut = cut_segments(LABELS, "class")
    np.testing.assert_array_equal(cut.numbers, [[2, 0, 1, 1], [0, 2, 0, 0], [0, 0, 0, 2]])
    assert cut.labels.tolist() == [0, 1, 2]
    assert cut.num_components.tolist() == [0, 1, 2]


def test_components_touch_by_their_corners_and_follow_the_reading_order():
    cut = cut_segments(LABELS, "components")
    np.testing.assert_array_equal(cut.numbers, [[2, 0, 1, 1], [0, 2, 0, 0], [0, 0, 0, 3]])
    assert cut.labels.tolist() == [0, 1, 2, 2]
    assert cut.num_components.tolist() == [0, 1, 1, 1]


def test_background_alone_has_no_segments():
    cut = cut_segments(np.zeros((3, 5), np.uint16), "components")
    assert not cut.numbers.any()
    assert cut.labels.tolist() == [0]
