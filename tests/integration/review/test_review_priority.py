"""Bad masks come first in the order of `review_priority`, on drawn scenes with a known truth.

`python -m benchmarks.review_order` does the same on 500 scenes.
"""

import pytest

from benchmarks.review_order import compare_masks, found_first
from ovseg_core.decision.review_priority import image_priority, mask_priority

SCENES = 60


@pytest.mark.parametrize("method", ["clip_diy"])
def test_first_fifth_holds_most_bad_masks(method):
    found = found_first(list(compare_masks(method, SCENES)))
    assert found["num_masks"] > 3 * SCENES / 2
    assert found["masks_by_priority"] >= 0.6, "chance is 0.2"
    assert found["masks_by_priority"] >= found["masks_by_mean_prob"]
    assert found["images_by_priority"] >= 0.45, "chance is 0.2"
    assert found["images_by_priority"] <= found["images_at_best"] < 1


SURE = {"mean_prob": 1.0, "margin_mean": 1.0, "entropy_mean": 0.0, "area_frac": 1.0}


def test_every_score_raises_the_priority():
    assert 0 <= mask_priority(SURE) < 0.01
    for name, worse in (
        ("mean_prob", 0.5), ("margin_mean", 0.5), ("entropy_mean", 0.5), ("area_frac", 0.005),
    ):  # fmt: skip
        assert mask_priority({**SURE, name: worse}) == pytest.approx(0.5, abs=0.01), name
    nothing = {**SURE, "mean_prob": 0.0}
    assert mask_priority(nothing) == 1.0
    assert 0 <= image_priority([SURE]) < image_priority([SURE, nothing]) < 1
    assert image_priority([nothing]) < image_priority([nothing] * 400) < 1


def test_image_without_masks_is_ranked_by_its_highest_score():
    assert image_priority([], 0.0) == 0.0
    assert image_priority([], 0.3) < image_priority([], 0.9) < 1
    assert image_priority([SURE], 0.9) == image_priority([SURE])
