import pytest
from pydantic import ValidationError

from schemas.calibration import Calibration

CALIBRATION = Calibration(
    method="clip_diy",
    scores=(0.2, 0.6, 0.8),
    probabilities=(0.1, 0.3, 0.9),
    thresholds={"cat": 0.5, "dog": 0.0},
    default_threshold=0.25,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scores": (0.2, 0.2, 0.8)},
        {"probabilities": (0.3, 0.1, 0.9)},
        {"probabilities": (0.1, 0.3)},
        {"scores": (), "probabilities": ()},
        {"version": 2},
        {"thresholds": {"cat": 1.5}},
    ],
)
def test_damaged_calibration_is_refused(wrong):
    with pytest.raises(ValidationError):
        Calibration.model_validate(CALIBRATION.model_dump() | wrong)


def test_labels_without_a_threshold_have_the_default():
    assert [CALIBRATION.threshold(label) for label in ("cat", "dog", "owl")] == [0.5, 0.0, 0.25]
