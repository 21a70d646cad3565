"""A worker in this process: what it loads, annotates and commits."""

import pytest

from pipeline.job import job
from pipeline.job.worker import Worker, WorkerSetup, commit
from pipeline.run.folder import RunFolder
from tests.helpers.colour_segmenter import BuildColourSegmenter, colour_config, paint_collection


@pytest.fixture
def config(tmp_path):
    return colour_config(paint_collection(tmp_path / "images", 6), tmp_path / "run")


@pytest.fixture
def worker(config):
    return Worker(WorkerSetup(config, "cpu", BuildColourSegmenter()))


def test_prepare_returns_the_weights(worker):
    assert worker.prepare() == {"colours": "0" * 64}


def test_annotate_commits_the_shard(config, worker):
    run = job.plan(config).begin(worker.prepare())
    tally = worker.annotate(run.shards()[1])
    assert tally.num_images == 2
    assert list(run.done()) == [1]
    assert run.done()[1].tally == tally


def test_annotate_rows_commits_nothing(config, worker):
    run = job.plan(config).begin(worker.prepare())
    rows = worker.annotate_rows(run.shards()[0])
    assert len(rows.images) == 4
    assert RunFolder.open(config.out).done() == {}


def test_commit_returns_the_tally_of_the_first_commit(config, worker):
    run = job.plan(config).begin(worker.prepare())
    shard = run.shards()[0]
    first = worker.annotate(shard)
    late = first.model_copy(update={"seconds": {"wall": 99.0}})
    assert commit(run, 0, worker.annotate_rows(shard), late) == first
