"""The picture of a calibration."""

import numpy as np

from pipeline.corrections.calibrate import CalibrationReport, LabelThreshold, Reliability
from pipeline.corrections.reliability_plot import draw
from schemas.config import Calibration

BARS = (66, 133, 200)


def _reliability(*bins: tuple[float, float, int]) -> Reliability:
    return Reliability(expected_error=0.1, brier=0.2, bins=bins)


def test_what_drops_nothing_is_said_below_the_right_panel():
    calibration = Calibration(
        method="clip_diy", scores=(0.2, 0.8), probabilities=(0.1, 0.9), thresholds={},
        num_segments=57,
    )  # fmt: skip
    one_bar = _reliability((0.95, 0.98, 57))
    dropped = LabelThreshold(
        name="cat", num_segments=57, num_right=56, threshold=0.5, num_dropped=1, num_right_dropped=0
    )
    texts = []
    for num_right, labels in ((56, (dropped,)), (56, ()), (40, ())):
        report = CalibrationReport(
            calibration=calibration, num_images=9, num_unchanged=0, num_right=num_right,
            before=one_bar, after=one_bar, labels=labels, damaged={},
        )  # fmt: skip
        picture = np.asarray(draw(report))
        below = picture[64 + 320 + 74 + 44 : -36]
        half = below.shape[1] // 2
        assert (below[:, :half] == 255).all()
        rows, columns = np.nonzero((below[:, half:] != 255).any(-1))
        texts.append(len(rows))
        assert not len(rows) or columns.max() <= 320 + 72
    none, hardly, no_lower = texts
    assert (none, hardly > 200, no_lower > hardly) == (0, True, True)


def test_plot_shows_before_and_after():
    calibration = Calibration(
        method="clip_diy", scores=(0.2, 0.8), probabilities=(0.1, 0.9), thresholds={}
    )
    report = CalibrationReport(
        calibration=calibration,
        num_images=3,
        num_unchanged=0,
        num_right=20,
        before=_reliability((0.25, 0.1, 9), (0.75, 0.95, 30)),
        after=_reliability((0.15, 0.1, 9), (0.95, 0.95, 30)),
        labels=(),
        damaged={},
    )
    picture = np.asarray(draw(report))
    assert picture.shape[1] > 700
    halves = picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]
    for half in halves:
        assert (half == BARS).all(-1).sum() > 500, "no bars"
    before, after = halves
    assert not np.array_equal(before[:, :300], after[:, :300])
    legend = picture[-40:]
    for colour in (BARS, (230, 120, 60), (190, 196, 202)):
        assert (legend == colour).all(-1).sum() > 50, "a colour that nothing explains"
    assert (before[64:384, :30] != 255).any(), "the upright axis has a name"
