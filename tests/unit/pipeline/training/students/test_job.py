"""Training a student in this process: files, repeats, resumes, bad input."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ovseg_core.backbones.file_formats.head_file import file_bytes, record_in
from ovseg_core.training.students.shared.student_file import load_student
from pipeline.run.folder import RunFolder
from pipeline.storage.folder import Folder
from pipeline.training.students.job import train_student
from schemas.errors import (
    CollectionError,
    ConfigError,
    OutageError,
    RunFolderError,
    TrainingError,
    UserError,
    WeightsError,
)
from tests.helpers.camvid import write_camvid
from tests.helpers.drawn_runs import RunSpec, Scene, make_run
from tests.helpers.fault_plan import Fault
from tests.helpers.faulty_folder import FaultyFolder
from tests.helpers.student_trainings import (
    STEPS,
    StopsAt,
    colour_run,
    losses,
    student_config,
    train,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return colour_run(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def student(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training of `STEPS` steps."""
    out = tmp_path_factory.mktemp("students") / "a"
    train(student_config(run, out))
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_writes_student_metrics_pictures_and_card(student: Path, run: RunFolder) -> None:
    files = sorted(str(file.relative_to(student)) for file in student.rglob("*.*"))
    assert files == [
        *("MODEL_CARD.md", "curves.png", "events/events.out.tfevents.student"),
        *("examples.png", "metrics.parquet", "student.safetensors"),
    ]
    loaded = load_student(student / "student.safetensors")
    assert loaded.record.vocabulary.names == run.info.job().vocabulary.names
    training = loaded.record.training
    assert training["teacher_fingerprint"] == run.fingerprint
    assert training["images"] == {"learned": 4, "kept for validation": 2, "failed in the run": 1}
    rows = pq.read_table(student / "metrics.parquet").to_pylist()
    assert [row["step"] for row in rows if row["loss"] is not None] == list(range(1, STEPS + 1))
    assert all(row["peak_bytes"] > 10**8 for row in rows if row["loss"] is not None)
    mious = {row["step"]: row["miou"] for row in rows if row["miou"] is not None}
    assert list(mious) == [4, 8]
    assert training["validation_miou"] == max(mious.values())
    card = (student / "MODEL_CARD.md").read_text()
    assert "cat, dog, potted plant" in card
    assert f"mIoU of validation | {training['validation_miou']:.3f}" in card
    with Image.open(student / "examples.png") as sheet:
        assert sheet.width > 500


def test_finished_training_is_not_repeated_and_a_repeat_gives_the_same_weights(
    student: Path, run: RunFolder, tmp_path: Path
) -> None:
    report = train(student_config(run, student))
    assert (report.new_steps, report.exit_code) == (0, 0)
    report = train(student_config(run, tmp_path / "b"))
    assert report.counts["learned"] == 4
    assert report.images_per_s is not None
    assert 0 < report.images_per_s < 1e5
    assert report.peak_bytes > 10**8
    assert_same_weights(student, tmp_path / "b")


def test_training_stopped_twice_ends_with_the_same_weights(
    student: Path, run: RunFolder, tmp_path: Path
) -> None:
    """Before and after the first validation; with a moving average: `test_students_killed.py`."""
    config = student_config(run, tmp_path / "b")
    for steps in (2, 4):
        report = train_student(config, StopsAt(steps))
        assert (report.exit_code, report.interrupted, report.new_steps) == (130, True, steps)
        assert not (tmp_path / "b" / "student.safetensors").exists()
    resumed = train(config)
    assert 0 < resumed.new_steps < STEPS
    assert_same_weights(student, tmp_path / "b")
    assert len(losses(tmp_path / "b")) == STEPS


def test_early_stop_keeps_the_best_weights(run: RunFolder, tmp_path: Path) -> None:
    standing = {"learning_rate": 1e-9, "min_learning_rate": 0}
    changes = {"validate_every": 1, "patience": 1, "options": standing}
    report = train(student_config(run, tmp_path / "a", **changes))
    assert report.stopped_at == 2
    record = load_student(tmp_path / "a" / "student.safetensors").record
    assert (record.training["steps"], record.training["step_of_weights"]) == (2, 1)
    assert train(student_config(run, tmp_path / "a", **changes)).new_steps == 0


def test_out_can_be_a_url(run: RunFolder, student: Path, tmp_path: Path) -> None:
    out = f"memory://{tmp_path.name}/student"
    train(student_config(run, out))
    stored = Folder(out).read_bytes("student.safetensors")
    assert stored == (student / "student.safetensors").read_bytes()


def test_another_training_is_refused_by_field(run: RunFolder, tmp_path: Path) -> None:
    config = student_config(run, tmp_path / "a")
    train_student(config, StopsAt(2))
    for changes, field in (
        ({"options": {"steps": 9}}, r"options\.steps was 8, now 9"),
        ({"options": {"learning_rate": 0.1}}, r"options\.learning_rate was 0\.003, now 0\.1"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"cleaning": {"edge_px": 2}}, r"cleaning\.edge_px was 0, now 2"),
        ({"ema_decay": 0.5}, r"ema_decay was 0\.0, now 0\.5"),
    ):
        with pytest.raises(RunFolderError, match=rf"another training \({field}\)"):
            train(student_config(run, tmp_path / "a", **changes))


def test_files_that_are_no_student_are_kept(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").write_bytes(b"my thesis")
    with pytest.raises(RunFolderError, match=r"was not made by `ovseg train-student`"):
        train(student_config(run, tmp_path))
    assert (tmp_path / "student.safetensors").read_bytes() == b"my thesis"


def test_damaged_checkpoint_is_refused_in_one_line(run: RunFolder, tmp_path: Path) -> None:
    config = student_config(run, tmp_path / "a")
    train_student(config, StopsAt(2))
    file = tmp_path / "a" / "checkpoint.safetensors"
    data = file.read_bytes()
    for old, new in ((b"best", b"bost"), (rb"\"step\": \"2\"", rb"\"step\": \"99\"")):
        assert old in data
        file.write_bytes(data.replace(old, new, 1))
        with pytest.raises(RunFolderError, match=r"checkpoint\.safetensors is damaged"):
            train(config)
    file.write_bytes(data[:-7])
    with pytest.raises(RunFolderError, match=r"checkpoint\.safetensors is damaged"):
        train(config)


def test_diverged_training_stops_in_one_line_and_its_checkpoint_stays(
    run: RunFolder, tmp_path: Path
) -> None:
    options = {"optimiser": "sgd", "learning_rate": 1e6, "min_learning_rate": 1e6}
    config = student_config(run, tmp_path / "a", options=options, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"diverged; use a smaller learning rate") as caught:
        train(config)
    assert len(str(caught.value).splitlines()) == 1
    checkpoint = load_file(tmp_path / "a" / "checkpoint.safetensors")
    assert all(value.isfinite().all() for value in checkpoint.values())
    assert not (tmp_path / "a" / "student.safetensors").exists()


def test_full_disk_leaves_the_last_checkpoint(
    run: RunFolder, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = FaultyFolder(tmp_path, monkeypatch)
    config = student_config(run, faulty.folder.uri)
    faulty.plan(Fault("write", r"checkpoint", nth=2, action="full_disk", times=99))
    with pytest.raises(OutageError, match="is full, or your share of it: make room"):
        train(config)
    faulty.plan()
    report = train(config)
    assert report.new_steps == STEPS - 2
    assert_same_weights(student, faulty.disk)


def test_pickled_weights_of_a_backbone_are_not_run(run: RunFolder, tmp_path: Path) -> None:
    for name in ("backbone.pth", "backbone.safetensors"):
        file, trace = tmp_path / name, tmp_path / "it-ran"
        torch.save({"stem.weight": RunsCode(f"touch {trace}")}, file)
        config = student_config(run, tmp_path / "a", options={"backbone_weights": str(file)})
        with pytest.raises(WeightsError, match=name) as caught:
            train(config)
        assert len(str(caught.value).splitlines()) == 1
        assert not trace.exists()
    assert not (tmp_path / "a").exists()


class RunsCode:
    """An object whose unpickling runs a command of the shell."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


def test_checkpoint_of_another_network_or_labels_is_refused(run: RunFolder, tmp_path: Path) -> None:
    config = student_config(run, tmp_path / "a")
    wide = {"options": {"channels": 24}}
    train_student(config, StopsAt(2))
    words = colour_run(tmp_path / "words", labels=("cat", "dog", "sofa"))
    for other, field in (
        (student_config(run, tmp_path / "a", **wide), "channels"),
        (student_config(words, tmp_path / "a"), "teacher was"),
    ):
        with pytest.raises(RunFolderError, match=rf"belongs to another training \(.*{field}"):
            train(other)
    # The same, where the record was made to fit.
    train_student(student_config(run, tmp_path / "b", **wide), StopsAt(2))
    file = tmp_path / "b" / "checkpoint.safetensors"
    record = record_in((tmp_path / "a" / "checkpoint.safetensors").read_bytes())
    file.write_bytes(file_bytes(load_file(file), record))
    with pytest.raises(RunFolderError, match=r"is damaged \(weight\.\S+ is \(.*expected"):
        train(student_config(run, tmp_path / "b"))


def test_all_pixels_ignored_is_an_error(run: RunFolder, tmp_path: Path) -> None:
    config = student_config(run, tmp_path / "a", cleaning={"edge_px": 60})
    with pytest.raises(TrainingError, match="all pixels of the last 8 steps are ignored"):
        train(config)


def test_images_that_are_gone_are_an_error(tmp_path: Path) -> None:
    run = colour_run(tmp_path)
    for file in (tmp_path / "photos").glob("*.png"):
        file.unlink()
    with pytest.raises(CollectionError, match=r"20 images in a row cannot be read.*not_found"):
        train(student_config(run, tmp_path / "a"))


def test_some_images_that_are_gone_are_counted(tmp_path: Path) -> None:
    run = colour_run(tmp_path)
    (tmp_path / "photos" / "0.png").unlink()
    Image.new("RGB", (9, 5)).save(tmp_path / "photos" / "1.png")  # was replaced
    report = train(student_config(run, tmp_path / "a", validation_share=0))
    assert report.failed == {"not_found": 2}
    assert report.exit_code == 3


def test_empty_run_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Scene("a.png", None)])
    with pytest.raises(CollectionError, match=r"no images to learn from.*1 failed in the run"):
        train(student_config(run, tmp_path / "a"))
    with pytest.raises(UserError, match="nowhere"):
        train(student_config(str(tmp_path / "nowhere"), tmp_path / "a"))


def test_one_label_and_one_pixel_can_be_learned(tmp_path: Path) -> None:
    maps = [np.ones((1, 1), np.uint16), np.eye(31, 47, dtype=np.uint16), np.zeros((9, 70), "u2")]
    scenes = [Scene(f"{place}.png", one) for place, one in enumerate(maps)]
    run = make_run(tmp_path, scenes, RunSpec(labels=("cat",)))
    report = train(student_config(run, tmp_path / "a", validation_share=0.5))
    assert report.exit_code == 0
    assert report.failed == {}


def test_contradicting_settings_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for changes, message in (
        ({"patience": 2, "validation_share": 0}, "patience: needs validation images"),
        ({"run": {"workers": 5}}, r"run\.workers is 5, but a step has 4 images"),
        ({"options": {"stepz": 2}}, r"student\.options\.stepz"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(student_config("nowhere", tmp_path / "a", **changes))


def test_public_data_set_is_learned_by_its_own_split(tmp_path: Path) -> None:
    data = write_camvid(tmp_path / "camvid")
    short = {"options": {"steps": 2}, "validate_every": 2}
    config = student_config("", tmp_path / "a", protocol="camvid", data=str(data), **short)
    report = train(config)
    assert report.counts == {"learned": 24, "kept for validation": 4}
    record = load_student(tmp_path / "a" / "student.safetensors").record
    assert len(record.vocabulary.names) == 11
    assert json.loads(json.dumps(record.training["identity"]))["protocol"] == "camvid"
    assert report.miou is not None
    Image.fromarray(np.full((96, 128), 5, np.uint8)).save(data / "trainannot" / "0003.png")
    with pytest.raises(RunFolderError, match=r"another training \(truth was '\w+', now '\w+'\)"):
        train(config)
