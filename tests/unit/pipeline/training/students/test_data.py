"""Which images are learned and which validate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.run.folder import RunFolder
from pipeline.training.students.data import ProtocolSource, StudentData
from schemas.errors import ConfigError
from tests.helpers.camvid import write_camvid
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


def test_a_student_does_not_train_itself_where_nobody_has_labelled_anything(
    run: RunFolder, tmp_path: Path
) -> None:
    options = {"self_training_from": 0.5}
    with pytest.raises(ConfigError, match="self_training_from: nobody has labelled anything"):
        data_of(run, options=dict(options))
    truth = tmp_path / "truth"
    truth.mkdir()
    for number in range(10):
        path = Path(data_of(run).source.path(number)).with_suffix(".png")
        Image.fromarray(np.ones((24, 32), np.uint8)).save(truth / path.name)
    assert data_of(run, options=options, truth=str(truth)).source.is_labelled


def test_changed_images_and_labels_of_a_data_set_change_its_identity(tmp_path: Path) -> None:
    data = write_camvid(tmp_path / "camvid")
    config = student_config("", "unused", protocol="camvid", data=str(data))
    identity = ProtocolSource(config).identity
    for file, field in (
        ("trainannot/0003.png", "truth"),
        ("valannot/0001.png", "truth"),
        ("train/0007.png", "images"),
    ):
        before = (data / file).read_bytes()
        Image.fromarray(np.full((96, 128), 5, np.uint8)).save(data / file)
        found = ProtocolSource(config).identity
        assert [name for name in found if found[name] != identity[name]] == [field]
        (data / file).write_bytes(before)  # at another time: the same labels
        assert ProtocolSource(config).identity == identity
    (data / "testannot" / "0000.png").unlink()  # neither learned nor asked
    assert ProtocolSource(config).identity == identity
