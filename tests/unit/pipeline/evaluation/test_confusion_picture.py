"""The picture of a confusion matrix: what is drawn where."""

import numpy as np
import pytest

from pipeline.evaluation import confusion_picture
from pipeline.evaluation.confusion_picture import Shares, draw, most_confused

NAMES = ("background", "cat", "dog", "potted plant")
COUNTS = np.array([[60, 20, 20, 0], [0, 0, 9, 1], [0, 0, 50, 0], [0, 0, 0, 0]])


def _cells(names: tuple[str, ...], counts: np.ndarray) -> np.ndarray:
    """Return the colours (K, K, 3) near the corners of the cells, where no number stands."""
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = np.asarray(confusion_picture._named(Shares(names, counts / totals))).astype(int)
    first = image.shape[0] - 1 - len(names) * confusion_picture._CELL_PX
    return image[first + 4 :: confusion_picture._CELL_PX, first + 4 :: confusion_picture._CELL_PX]


def test_shares_of_rows_are_the_depth_of_the_colours() -> None:
    cells = _cells(NAMES, COUNTS)
    assert cells.shape == (4, 4, 3)
    white = (cells == 255).all(axis=2)
    np.testing.assert_array_equal(white, COUNTS == 0)
    assert (cells[2, 2] == confusion_picture._RIGHT).all()  # all of dog is dog
    red, green = cells[1, 2], cells[0, 0]
    assert red[0] > red[1]
    assert green[1] > green[0]
    assert cells[1, 2, 1] < cells[1, 3, 1]  # nine tenths are deeper than one tenth


def test_names_over_the_columns_stand_in_the_rows_order() -> None:
    turned = np.asarray(confusion_picture._turned(["", "mmmmmmmmmm", "i"], 120)).min(axis=2) < 128
    ink = turned.reshape(120, 3, confusion_picture._CELL_PX).sum(axis=(0, 2))
    assert ink[0] == 0
    assert ink[1] > 5 * ink[2] > 0
    rows = np.flatnonzero(
        turned[:, confusion_picture._CELL_PX : 2 * confusion_picture._CELL_PX].any(axis=1)
    )
    assert rows.max() > 100  # names begin at the cells and read upwards


def test_background_in_neither_is_left_out() -> None:
    without = COUNTS.copy()
    without[0] = 0
    assert draw(NAMES, without).height < draw(NAMES, COUNTS).height
    predicted = without.copy()
    predicted[1, 0] = 5
    assert draw(NAMES, predicted).height == draw(NAMES, COUNTS).height


@pytest.mark.parametrize("num_classes", [2, 32, 33, 61, 172])
def test_any_number_of_classes_is_drawn_with_names(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"class number {index}" for index in range(num_classes)]
    counts = rng.integers(0, 50, (num_classes, num_classes)) + np.eye(num_classes, dtype=int) * 500
    counts[1] = 0
    picture = draw(names, counts)
    assert picture.mode == "RGB"
    assert 100 < picture.width < 2600
    assert 100 < picture.height < 1400


def test_the_classes_that_cost_most_are_picked() -> None:
    counts = np.diag(np.full(6, 1000))
    counts[4, 2], counts[1, 5], counts[0, 3] = 90, 80, 70
    assert set(most_confused(counts, 4)) == {4, 2, 1, 5}
    assert set(most_confused(counts, 5)) == {4, 2, 1, 5}  # both of a pair or none
    assert most_confused(np.diag([5, 5, 5]), 2) == [0, 1]


def test_picked_rows_keep_their_shares_of_all() -> None:
    shares = Shares(("a", "b", "c"), np.array([[0.5, 0.3, 0.2], [0, 1, 0], [0, 0, 1]]))
    picked = shares.picked([0, 2])
    assert picked.names == ("a", "c")
    np.testing.assert_array_equal(picked.cells, [[0.5, 0.2], [0, 1]])
