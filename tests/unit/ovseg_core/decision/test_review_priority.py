"""Review priorities of masks and images."""

import numpy as np
import pytest

from ovseg_core.decision.review_priority import (
    PRIORITY_COLUMNS,
    combined,
    combined_by_image,
    image_priority,
    mask_priority,
    share_less_doubtful,
)
from schemas.score_columns import SCORE_COLUMNS

SURE = {"mean_prob": 0.9, "margin_mean": 0.8, "entropy_mean": 0.1, "area_frac": 0.5}


def test_priority_columns_are_those_that_are_read():
    assert set(SURE) == set(PRIORITY_COLUMNS) <= set(SCORE_COLUMNS)
    expected = 1 - 0.9 * 0.8 * (1 - 0.1) * 0.5 / (0.5 + 0.005)
    assert mask_priority(SURE) == pytest.approx(expected)


def test_disagreement_halves_the_trust():
    assert 1 - mask_priority(SURE, 0.0) == pytest.approx((1 - mask_priority(SURE)) / 2)


def test_priorities_of_images_are_those_of_their_masks():
    doubts, image = np.array([0.2, 0.9, 0.9]), np.array([0, 2, 2], np.int32)
    found = combined_by_image(doubts, image, 3)
    np.testing.assert_allclose(found, [combined([0.2]), 0, combined([0.9, 0.9])])
    assert 0 <= found.min() < found.max() < 1


def test_an_image_without_masks_has_the_priority_of_what_was_missed():
    assert image_priority([], missed=0.7) == combined([0.7])


def test_doubt_of_an_image_is_the_share_of_images_that_are_less_doubtful():
    shares = share_less_doubtful(np.array([0.3, 0.9, 0.3, 0.1]))
    assert shares.tolist() == [0.25, 0.75, 0.25, 0.0]
    assert share_less_doubtful(np.array([0.7])).tolist() == [0.0]
    assert share_less_doubtful(np.array([])).tolist() == []
