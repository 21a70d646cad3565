"""The worker that trains a head: what it reports, and how it resumes."""

from pathlib import Path

import pytest
import torch

from pipeline.collection.collect import collect
from pipeline.training.heads.worker import HeadSetup, HeadWorker
from schemas.errors import CollectionError
from tests.helpers.head_trainings import STEPS, heads_config, write_images


def make_worker(images: Path, out: Path) -> HeadWorker:
    config = heads_config(images, out, options={"steps": STEPS})
    return HeadWorker(HeadSetup(config, collect(config.images, config.image), "cpu"))


def test_worker_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    worker = make_worker(images, tmp_path / "h.safetensors")
    assert worker.prepare().step == 0
    tally = worker.advance()  # to the first checkpoint, if not less far
    while tally.step < 2:
        tally = worker.advance()
    assert tally.loss is not None
    assert make_worker(images, tmp_path / "h.safetensors").prepare().step == 2


def test_finished_worker_has_nothing_to_do(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    worker = make_worker(images, tmp_path / "h.safetensors")
    while worker.advance().step < STEPS:
        pass
    tally = make_worker(images, tmp_path / "h.safetensors").prepare()
    assert (tally.step, tally.loss) == (STEPS, None)


def test_local_worker_keeps_the_threads_of_its_process(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    make_worker(write_images(tmp_path / "images"), tmp_path / "h.safetensors")
    assert torch.get_num_threads() == before


def test_too_many_unreadable_images_in_a_row_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    worker = make_worker(tmp_path / "images", tmp_path / "h.safetensors")
    with pytest.raises(CollectionError, match=r"20 images in a row .*a\.png: empty_file"):
        worker.advance()
