"""Training a head in this process: files, repeats, bad images, mistakes."""

import io
import json
import uuid
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ovseg_core.backbones.file_formats.head_file import file_sha256, read_record
from pipeline.storage.folder import Folder
from pipeline.training.heads.job import train_head
from pipeline.training.progress import StepProgress, make_step_progress
from schemas.errors import CollectionError, ConfigError, RunFolderError, WeightsError
from tests.helpers.head_trainings import STEPS, heads_config, train, write_images
from tests.helpers.tiny_models import tiny_folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.mark.parametrize("heads", ["found", "dinoiser"])
def test_head_records_its_training_and_bad_images_are_counted(
    heads: str, images: Path, tmp_path: Path
) -> None:
    report = train(heads_config(images, tmp_path / "h.safetensors", heads))
    assert (report.steps, report.new_steps, report.num_images) == (STEPS, STEPS, 7)
    assert report.failed == {"not_an_image": 1}
    assert report.exit_code == 0
    record = read_record(report.out)
    network = "clip/open_clip_model" if heads == "dinoiser" else "vision/model"
    assert record["kind"] == heads
    assert record["network"] == file_sha256(tiny_folder() / f"{network}.safetensors")
    assert record["version"] == version("ovseg")
    identity = json.loads(record["identity"])
    assert identity["options.steps"] == STEPS
    assert len(identity["images"]) == 64
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["h.safetensors"]


def test_training_is_exact_and_a_finished_one_is_not_repeated(images: Path, tmp_path: Path) -> None:
    first, second = (heads_config(images, tmp_path / f"{n}.safetensors") for n in "ab")
    train(first)
    train(second)
    assert Path(first.out).read_bytes() == Path(second.out).read_bytes()
    (tmp_path / "a.checkpoint.safetensors").write_bytes(b"left by a process that died")
    assert train(first).new_steps == 0
    assert not (tmp_path / "a.checkpoint.safetensors").exists()


class _StopsAt(StepProgress):
    """A person who presses Ctrl-C after a number of reports."""

    def __init__(self, reports: int) -> None:
        super().__init__()
        self._left = reports

    def tick(self) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def test_training_stopped_by_ctrl_c_resumes_from_its_checkpoint(
    images: Path, tmp_path: Path
) -> None:
    whole, stopped = (heads_config(images, tmp_path / f"{n}.safetensors") for n in "ab")
    train(whole)
    report = train_head(stopped, _StopsAt(2))
    assert (report.exit_code, report.interrupted, report.new_steps) == (130, True, 4)
    assert not Path(stopped.out).exists()
    assert train(stopped).new_steps == STEPS - 4
    assert Path(stopped.out).read_bytes() == Path(whole.out).read_bytes()


def test_out_can_be_a_url(images: Path, tmp_path: Path) -> None:
    local = heads_config(images, tmp_path / "h.safetensors")
    train(local)
    there = f"memory://{uuid.uuid4()}/heads/h.safetensors"
    report = train(local.model_copy(update={"out": there}))
    assert report.new_steps == STEPS
    folder, _, name = there.rpartition("/")
    assert Folder(folder).list() == [name]
    assert Folder(folder).read_bytes(name) == Path(local.out).read_bytes()


def test_another_seed_gives_other_weights(images: Path, tmp_path: Path) -> None:
    files = []
    for seed in (0, 1):
        files.append(tmp_path / f"{seed}.safetensors")
        train(heads_config(images, files[-1], seed=seed, options={"steps": 1}))
    one, other = (load_file(file)["obj_proj.weight"] for file in files)
    assert (one - other).abs().max() > 1e-3


def test_files_of_another_training_are_kept(images: Path, tmp_path: Path) -> None:
    config = heads_config(images, tmp_path / "h.safetensors")
    train(config)
    before = Path(config.out).read_bytes()
    longer = heads_config(images, tmp_path / "h.safetensors", options={"steps": 9})
    with pytest.raises(RunFolderError, match=r"another training \(options\.steps was 7, now 9\)"):
        train(longer)
    with pytest.raises(RunFolderError, match=r"heads was 'dinoiser', now 'found'; .* more\); give"):
        train(heads_config(images, tmp_path / "h.safetensors", "found"))
    (images / "5.png").unlink()
    with pytest.raises(RunFolderError, match=r"another training \(images was"):
        train(config)
    assert Path(config.out).read_bytes() == before
    Path(config.out).write_bytes(b"my thesis")
    with pytest.raises(RunFolderError, match="was not made by `ovseg train-heads`"):
        train(config)
    assert Path(config.out).read_bytes() == b"my thesis"


def test_too_many_bad_images_are_exit_code_3_and_only_bad_ones_an_error(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    config = heads_config(images, tmp_path / "h.safetensors", run={"max_error_share": 0.1})
    assert train(config).exit_code == 3
    only_bad = tmp_path / "bad"
    only_bad.mkdir()
    (only_bad / "a.png").write_bytes(b"")
    with pytest.raises(CollectionError, match=r"20 images in a row .*empty_file"):
        train(heads_config(only_bad, tmp_path / "other.safetensors"))


def test_wrong_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ConfigError, match=r"head\.options\.bacth"):
        train(heads_config(nowhere, tmp_path / "h.safetensors", options={"bacth": 3}))


def test_training_that_never_began_shows_no_steps(images: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    config = heads_config(images, tmp_path / "h.safetensors", clip={"model": "local-dir:nowhere"})
    with pytest.raises(WeightsError):
        train_head(config, make_step_progress(stream))
    assert stream.getvalue() == ""
