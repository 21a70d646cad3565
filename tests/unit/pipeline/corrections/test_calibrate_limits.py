"""Calibration where there is much, little, or nearly the same."""

import numpy as np
import pytest

from pipeline.corrections.calibrate import Rules, best_threshold, calibrate
from pipeline.corrections.log import ReviewLog
from pipeline.run.predictions import Predictions
from schemas.errors import UserError
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run


def test_a_threshold_never_divides_scores_that_rounding_divides():
    score = np.array([0.3, 0.583333, 0.5833330265, 0.583333, 0.5833330265])
    right = np.array([False, False, True, False, True])
    assert best_threshold(score, right) == pytest.approx((0.3 + 0.58333) / 2)


def test_the_best_threshold_of_many_segments():
    rng = np.random.default_rng(2)
    score = rng.random(300_000)
    right = rng.random(300_000) < score**2
    best = best_threshold(score, right)

    def f1(threshold: float) -> float:
        kept = score >= threshold
        return 2 * (kept & right).sum() / (kept.sum() + right.sum())

    assert all(f1(best) >= f1(other) for other in rng.random(200))


def test_one_image_says_nothing_about_others_and_two_do(tmp_path):
    scenes = [Scene(f"{n}.png", label_map(n), 0.3 + n / 2) for n in range(2)]
    run = make_run(tmp_path, scenes, RunSpec(masks={"segments": "components"}))
    rows = [Predictions(run).segments(f"id-{n}.png") for n in range(2)]

    def say(number: int, action: str) -> None:
        ReviewLog(run).append(
            ReviewDecision(
                image_id=row["image_id"], label=row["label"], segment_index=row["segment_index"],
                action="reject" if row["segment_index"] == 3 else action, at_s=1,
            )
            for row in rows[number]
        )  # fmt: skip

    rules = Rules(min_segments=4)
    say(0, "accept")
    with pytest.raises(UserError, match="are of one image"):
        calibrate(run, rules)
    say(1, "reject")
    report = calibrate(run, rules)
    wrong = 1 - 1 / len(rows[0])
    # Each image is calibrated by the other: what was right here was wrong there.
    assert report.after.brier == pytest.approx(
        (len(rows[0]) * wrong + len(rows[1]) * wrong**2) / (len(rows[0]) + len(rows[1]))
    )
