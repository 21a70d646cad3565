"""The checkpoint and the head's file, each with the identity of its training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ovseg_core.backbones.file_formats.head_file import file_bytes
from pipeline.training.heads.store import HeadStore
from pipeline.training.store import Checkpoint
from schemas.errors import RunFolderError, UserError
from tests.helpers.head_trainings import heads_config

STATE = {"weight": torch.arange(6.0).reshape(2, 3)}


def make_store(folder: Path, **identity: object) -> HeadStore:
    config = heads_config(folder, folder / "h.safetensors")
    return HeadStore(config, {"seed": 0, **identity}, {"torch": "2.15"})


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    assert make_store(tmp_path).last() is None
    make_store(tmp_path).save(Checkpoint(3, STATE, {"a.png": "truncated"}))
    last = make_store(tmp_path).last()
    assert last is not None
    assert (last.step, last.failed) == (3, {"a.png": "truncated"})
    torch.testing.assert_close(last.state["weight"], STATE["weight"], rtol=0, atol=0)


def test_finish_writes_the_head_and_deletes_the_checkpoint(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(Checkpoint(3, STATE))
    assert not store.is_finished()
    store.finish(file_bytes(STATE, store.record))
    assert store.is_finished()
    assert [path.name for path in tmp_path.iterdir()] == ["h.safetensors"]


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path, steps=7).save(Checkpoint(3, STATE))
    with pytest.raises(RunFolderError, match=r"another training \(steps was 7, now 9\)"):
        make_store(tmp_path, steps=9).last()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-5], "not fully covered"),
        (lambda data: data.replace(b'"F32"', b'"F3x"'), "header"),
        (lambda data: data.replace(b"[2,3]", b"[9,9]"), "damaged"),
        (lambda data: data.replace(rb"\"step\": \"3\"", rb"\"step\": \"x\""), "x"),
        (lambda data: data.replace(rb"\"step\"", rb"\"stop\""), "no 'step'"),
        (lambda data: data.replace(rb"\"failed\": \"{}\"", rb"\"failed\": \"[]\""), "table"),
    ],
)
def test_damaged_checkpoint_is_refused_in_one_line(
    change: Callable[[bytes], bytes], why: str, tmp_path: Path
) -> None:
    make_store(tmp_path).save(Checkpoint(3, STATE))
    file = tmp_path / "h.checkpoint.safetensors"
    changed = change(file.read_bytes())
    assert changed != file.read_bytes()
    file.write_bytes(changed)
    with pytest.raises(RunFolderError, match=f"(?s)checkpoint.*{why}.*"):
        make_store(tmp_path).last()


def test_a_file_of_terabytes_in_the_place_of_a_checkpoint_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "h.checkpoint.safetensors").open("wb") as file:
        file.truncate(1 << 40)  # takes no disk
    with pytest.raises(UserError, match=r"1,099,511,627,776 bytes, expected at most"):
        make_store(tmp_path).last()


def test_checkpoint_of_other_libraries_is_refused_unless_accepted(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.save(Checkpoint(3, STATE))
    config = heads_config(tmp_path, tmp_path / "h.safetensors")
    later = HeadStore(config, {"seed": 0}, {"torch": "2.16"})
    with pytest.raises(RunFolderError, match=r"torch was 2\.15, now 2\.16.*accept_versions=true"):
        later.last()
    run = config.run.model_copy(update={"accept_versions": True})
    accepting = HeadStore(config.model_copy(update={"run": run}), {"seed": 0}, {"torch": "2.16"})
    last = accepting.last()
    assert last is not None
    assert last.step == 3
    store.finish(file_bytes(STATE, store.record))
    assert later.is_finished()


def test_foreign_file_in_the_place_of_the_head_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h.safetensors").write_bytes(b"my thesis")
    with pytest.raises(RunFolderError, match="was not made by `ovseg train-heads`"):
        make_store(tmp_path).is_finished()
