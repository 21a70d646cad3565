"""The benchmark of students: what a row learns, and that the page shows what was measured."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.students import DOCS, RESULTS, goals
from benchmarks.students_rows import ROWS, batches, data_of
from benchmarks.students_table import BEGIN, END, tables
from benchmarks.students_world import (
    FIRST_SEED,
    HELD_OUT,
    SEEN,
    TrainingScene,
    calibrated,
    drawn,
    labelled_by_teacher,
    truth_of,
)
from ovseg_core.training.students import (
    IGNORED,
    UNLABELLED,
    build_task,
    check_student,
)
from schemas.config import Calibration, CleaningConfig

ROW = ROWS[0]


@pytest.fixture(scope="module")
def scenes() -> list[TrainingScene]:
    return list(labelled_by_teacher("train", 4))


@pytest.fixture(scope="module")
def calibration(scenes: list[TrainingScene]) -> Calibration:
    return calibrated(scenes)


def test_no_scene_of_a_part_is_in_another_part():
    firsts = sorted(FIRST_SEED.values())
    assert min(np.diff(firsts)) > 1_000_000


def test_the_truth_of_a_scene_has_the_pair_of_each_object_whatever_its_pattern():
    for labels, held_out in ((SEEN, False), (HELD_OUT, True)):
        scene = drawn("test", 3, held_out=held_out)
        truth = truth_of(scene, labels)
        for number, phrase in enumerate(scene.labels, start=1):
            colour, _, shape = phrase.split()
            assert set(truth[scene.label_map == number]) == {labels.index(f"{colour} {shape}") + 1}


def test_a_row_learns_the_teachers_sure_masks_only(
    scenes: list[TrainingScene], calibration: Calibration
):
    row = replace(ROW, cleaning=CleaningConfig(min_score=0.5))
    for scene, learned in zip(scenes, data_of(row, scenes, calibration), strict=True):
        assert (learned.labels == UNLABELLED).all()
        for segment in scene.rows:
            is_sure = segment["mean_prob"] >= 0.5
            assert (segment["category_id"] in learned.teacher) == is_sure
    assert any((one.teacher == IGNORED).any() for one in data_of(row, scenes, calibration))


def test_a_row_of_the_truth_learns_the_truth_of_its_share(
    scenes: list[TrainingScene], calibration: Calibration
):
    learned = data_of(replace(ROW, truth=True, share=0.5), scenes, calibration)
    assert len(learned) == 2
    np.testing.assert_array_equal(learned[1].labels, scenes[1].truth)


def test_every_scene_is_seen_once_before_any_is_seen_twice(
    scenes: list[TrainingScene], calibration: Calibration
):
    part = replace(ROW, options={"steps": 2, "batch": 2}).part()
    marked = [
        one._replace(image=one.image * 0 + 50 * number)
        for number, one in enumerate(data_of(ROW, scenes, calibration))
    ]
    views = batches(build_task(part, 0), check_student(part), marked, seed=0)
    shown = [int(view.pixels.max()) for step in views for view in step]
    assert sorted(shown) == [0, 50, 100, 150]


def test_goals_leave_out_what_was_not_measured():
    one = {"0": {"seen": 45.0, "held_out": 70.0}}
    results = {"teacher": {"seen": 41.0, "held_out": 66.0}, "rows": {"student": one}}
    assert goals(results) == {
        "student_minus_teacher_seen_miou": 4.0,
        "student_minus_teacher_held_out_miou": 4.0,
    }


def test_the_page_shows_what_was_measured():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = (DOCS / "students.md").read_text(encoding="utf-8")
    assert results["goals"] == goals(results)
    assert tables(results) == page.partition(BEGIN)[2].partition(END)[0].strip()
