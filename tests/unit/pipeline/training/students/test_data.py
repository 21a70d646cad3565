"""Which images are learned and which validate."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.run.folder import RunFolder
from pipeline.training.students.data import StudentData
from tests.helpers.student_trainings import colour_run, student_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return colour_run(tmp_path_factory.mktemp("teacher"), 10)


def data_of(run: RunFolder, **changes: Any) -> StudentData:
    return StudentData(student_config(run, "unused", **changes))


def test_images_are_split_once_by_the_seed(run: RunFolder) -> None:
    data, again = data_of(run), data_of(run)
    assert (len(data.training), len(data.validation)) == (7, 3)
    assert sorted(data.training + data.validation) == list(range(10))
    assert (data.training, data.validation) == (again.training, again.validation)
    assert data_of(run, seed=1).validation != data.validation


def test_limit_draws_from_all_and_the_others_are_counted(run: RunFolder) -> None:
    data = data_of(run, limit=4, validation_share=0.25)
    assert (len(data.training), len(data.validation)) == (3, 1)
    assert data.counts["not drawn (limit)"] == 6
    assert data_of(run, limit=4, seed=1).training != data.training


def test_without_validation_everything_is_learned(run: RunFolder) -> None:
    data = data_of(run, validation_share=0)
    assert (len(data.training), data.validation) == (10, [])


def test_one_image_is_learned_and_none_validates(tmp_path: Path) -> None:
    data = data_of(colour_run(tmp_path, 1), validation_share=0.9)
    assert (data.training, data.validation) == ([0], [])
