import math

import numpy as np
import pytest

from pipeline.evaluation.metrics import ConfusionMatrix

TRUTH = np.array([[0, 0, 1], [1, 2, 255]])
PRED = np.array([[0, 1, 1], [1, 0, 2]])


def test_confusion_matrix_case_computed_by_hand():
    matrix = ConfusionMatrix(4)
    matrix.add(PRED, TRUTH)
    assert matrix.counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(matrix.iou(), [1 / 3, 2 / 3, 0, math.nan])
    assert matrix.mean_iou() == pytest.approx(1 / 3)
    assert matrix.mean_iou([1, 3]) == pytest.approx(2 / 3)
    assert matrix.pixel_accuracy() == pytest.approx(3 / 5)
    assert matrix.foreground_iou() == pytest.approx(2 / 4)


def test_add_two_images_equals_one_joined_image():
    apart, together = ConfusionMatrix(3), ConfusionMatrix(3)
    apart.add(PRED, TRUTH)
    apart.add(PRED.T, TRUTH.T)
    together.add(np.hstack([PRED, PRED]), np.hstack([TRUTH, TRUTH]))
    np.testing.assert_array_equal(apart.counts, together.counts)


def test_scores_are_nan_if_nothing_is_counted():
    matrix = ConfusionMatrix(3)
    matrix.add(np.zeros((2, 3), int), np.full((2, 3), 255))
    assert math.isnan(matrix.mean_iou())
    assert math.isnan(matrix.pixel_accuracy())
    assert math.isnan(matrix.foreground_iou())


@pytest.mark.parametrize(
    ("pred", "truth", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "one size"),
        (np.full((2, 3), 3), np.zeros((2, 3)), r"prediction in 0\.\.2"),
        (np.zeros((2, 3)), np.full((2, 3), -1), r"truth in 0\.\.2"),
    ],
)
def test_add_wrong_size_or_value_is_refused(pred, truth, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3).add(pred.astype(int), truth.astype(int))


def test_ignored_value_that_is_a_class_is_refused():
    with pytest.raises(ValueError, match="also one of the 300 classes"):
        ConfusionMatrix(300)
    assert ConfusionMatrix(300, ignore=-1).num_classes == 300
