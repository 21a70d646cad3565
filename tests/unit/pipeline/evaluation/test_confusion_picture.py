"""The picture of a confusion matrix."""

import numpy as np
import pytest

from pipeline.evaluation.confusion_picture import (
    CELL_PX,
    RIGHT,
    ConfusionShares,
    draw_confusion,
    draw_matrix,
    most_confused,
)

NAMES = ("background", "cat", "dog", "potted plant")
COUNTS = np.array([[60, 20, 20, 0], [0, 0, 9, 1], [0, 0, 50, 0], [0, 0, 0, 0]])


def _cells(names: tuple[str, ...], counts: np.ndarray) -> np.ndarray:
    """Return the colours (K, K, 3) near the corners of the cells, where no number stands."""
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = np.asarray(draw_matrix(ConfusionShares(names, counts / totals))).astype(int)
    first = image.shape[0] - 1 - len(names) * CELL_PX
    return image[first + 4 :: CELL_PX, first + 4 :: CELL_PX]


def test_draw_matrix_colours_cells_by_their_share_of_the_row() -> None:
    cells = _cells(NAMES, COUNTS)
    assert cells.shape == (4, 4, 3)
    white = (cells == 255).all(axis=2)
    np.testing.assert_array_equal(white, COUNTS == 0)
    assert (cells[2, 2] == RIGHT).all()  # all of dog is dog
    red, green = cells[1, 2], cells[0, 0]
    assert red[0] > red[1]
    assert green[1] > green[0]
    assert cells[1, 2, 1] < cells[1, 3, 1]  # nine tenths are deeper than one tenth


def test_draw_matrix_writes_column_names_in_the_order_of_the_rows() -> None:
    names = (".", "mmmmmmmmmm", "i")
    picture = np.asarray(draw_matrix(ConfusionShares(names, np.zeros((3, 3))))).min(axis=2)
    first = len(picture) - 1 - 3 * CELL_PX
    is_ink = picture[:first, first:-1] < 128
    ink = is_ink.reshape(first, 3, CELL_PX).sum(axis=(0, 2))
    assert ink[1] > 5 * ink[2] > 5 * ink[0] > 0
    rows = np.flatnonzero(is_ink[:, CELL_PX : 2 * CELL_PX].any(axis=1))
    assert rows.max() > first - 20  # names begin at the cells and read upwards
    assert rows.min() < 20


def test_draw_confusion_leaves_out_background_that_does_not_occur() -> None:
    without = COUNTS.copy()
    without[0] = 0
    assert draw_confusion(NAMES, without).height < draw_confusion(NAMES, COUNTS).height
    predicted = without.copy()
    predicted[1, 0] = 5
    assert draw_confusion(NAMES, predicted).height == draw_confusion(NAMES, COUNTS).height


@pytest.mark.parametrize("num_classes", [2, 32, 33, 61, 172])
def test_draw_confusion_any_number_of_classes(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"class number {index}" for index in range(num_classes)]
    counts = rng.integers(0, 50, (num_classes, num_classes)) + np.eye(num_classes, dtype=int) * 500
    counts[1] = 0
    picture = draw_confusion(names, counts)
    assert picture.mode == "RGB"
    assert 100 < picture.width < 2600
    assert 100 < picture.height < 1400


def test_most_confused_returns_the_pairs_with_the_most_wrong_pixels() -> None:
    counts = np.diag(np.full(6, 1000))
    counts[4, 2], counts[1, 5], counts[0, 3] = 90, 80, 70
    assert set(most_confused(counts, 4)) == {4, 2, 1, 5}
    assert set(most_confused(counts, 5)) == {4, 2, 1, 5}  # both of a pair or none
    assert most_confused(np.diag([5, 5, 5]), 2) == [0, 1]


def test_of_classes_keeps_the_shares_of_all_classes() -> None:
    shares = ConfusionShares(("a", "b", "c"), np.array([[0.5, 0.3, 0.2], [0, 1, 0], [0, 0, 1]]))
    picked = shares.of_classes([0, 2])
    assert picked.names == ("a", "c")
    np.testing.assert_array_equal(picked.cells, [[0.5, 0.2], [0, 1]])
