"""The course of a training as table, events and curves."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ovseg_core.images.lettering import QUIET
from pipeline.storage.folder import Folder
from pipeline.training.students.results.metrics import EVENTS, METRICS, Metrics


def test_rows_survive_a_checkpoint_and_are_written(tmp_path: Path) -> None:
    first = Metrics(steps=1500, batch=2)  # a row for every three steps
    for step in range(1, 5):
        first.add_step(step, float(step), 0.1)
    second = Metrics(steps=1500, batch=2)
    second.restore(first.to_json())
    second.add_step(5, 5.0, 0.1)
    second.add_step(6, 9.0, 0.05)
    second.add_validation(6, 0.25)
    second.write(Folder(str(tmp_path)))
    rows = pq.read_table(tmp_path / METRICS).to_pylist()
    assert [(row["step"], row["loss"], row["miou"]) for row in rows] == [
        (3, 2.0, None),
        (6, 6.0, None),
        (6, None, 0.25),
    ]
    events = (tmp_path / EVENTS).read_bytes()
    assert events.count(b"miou") == 1
    assert events.count(b"learning_rate") == 2
    assert second.curves().height > 400


@pytest.mark.parametrize(("last", "wanted"), [(1, [0, 1]), (30, [0, 5, 10, 15, 20, 25, 30])])
def test_steps_below_the_curves_stand_where_they_are(last: int, wanted: list[int]) -> None:
    metrics = Metrics(steps=last, batch=2)
    for step in range(1, last + 1):
        metrics.add_step(step, 1.0, 0.1)
    picture = np.asarray(metrics.curves())
    frame = np.flatnonzero((picture[80] == QUIET).all(-1))
    ticks = np.flatnonzero((picture[56 + 220 + 3] == QUIET).all(-1))
    left, right = frame.min(), frame.max()
    assert ((ticks - left) * last / (right - left)).tolist() == pytest.approx(wanted, abs=0.05)


def test_heights_are_round_numbers_and_the_kept_step_is_marked() -> None:
    metrics = Metrics(steps=200, batch=2)
    for step, miou in ((50, 0.11), (100, 0.199), (150, 0.05), (200, 0.196)):
        metrics.add_step(step, 1.0, 0.1)
        metrics.add_validation(step, miou)
    plain, marked = (np.asarray(metrics.curves(step)) for step in (None, 100))
    changed = np.argwhere((plain != marked).any(-1))
    top, bottom = 220 + 3 * 56, 2 * 220 + 3 * 56
    assert (changed[:, 0] > 220 + 2 * 56).all(), "the loss has no mark"
    below = plain[bottom - 9] != marked[bottom - 9]
    assert np.flatnonzero(below.any(-1)).tolist() == [56 + 560 // 2], "step 100 of 200"
    grid = np.flatnonzero((plain[top : bottom - 1, 60] == (222, 226, 230)).all(-1))
    values = (bottom - top - grid) * 0.199 / 220
    assert values == pytest.approx([0.15, 0.1, 0.05], abs=2e-3)
    assert np.array_equal(metrics.curves(60), plain), "no validation was there"


def test_curves_without_a_row_can_be_drawn() -> None:
    assert Metrics(steps=3, batch=1).curves().width > 400


def test_rows_of_a_stranger_are_refused() -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any message; the store says which file
        Metrics(steps=3, batch=1).restore('[[{"step": "x"}], []]')
