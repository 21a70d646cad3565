"""A worker in this process: what it loads, annotates and commits."""

from pathlib import Path

import pytest
import yaml

from pipeline.job import job
from pipeline.job.worker import Worker, WorkerSetup, commit, first_images
from pipeline.run.folder import RunFolder
from schemas.errors import RunFolderError
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


def test_images_announced_with_the_shard_before_change_nothing_but_the_waits(config, worker):
    run = job.plan(config).begin(worker.prepare())
    shards = run.shards()
    first = worker.annotate(shards[0], first_images(shards[1], config.run))
    second = worker.annotate(shards[1])
    assert "wait_shard" in second.seconds
    assert first.num_images + second.num_images == 6
    apart = Worker(WorkerSetup(config, "cpu", BuildColourSegmenter()))
    for shard in shards:
        committed = run.shard_rows(run.marker(shard.index))
        alone = apart.annotate_rows(shard)
        assert [row.path for row in committed.images] == [ref.path for ref in shard.refs]
        assert [r.rle_counts for r in committed.annotations] == [
            r.rle_counts for r in alone.annotations
        ]
    apart.close()
    worker.close()


def test_a_worker_with_other_libraries_than_the_run_is_refused(config, worker):
    """The machines of a cluster may differ, and the driver looks at its own only."""
    run = job.plan(config).begin(worker.prepare())
    path = Path(config.out) / "run.yaml"
    content = yaml.safe_load(path.read_text())
    content["identity"]["versions.pillow"] = "1.1"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RunFolderError, match=r'pillow was "1.1", now '):
        worker.annotate(run.shards()[0])


def test_annotate_rows_commits_nothing(config, worker):
    run = job.plan(config).begin(worker.prepare())
    rows = worker.annotate_rows(run.shards()[0])
    assert len(rows.images) == 4
    assert RunFolder.open(config.out).done() == {}


def test_commit_returns_the_marker_of_the_first_commit(config, worker):
    run = job.plan(config).begin(worker.prepare())
    shard = run.shards()[0]
    first = worker.annotate(shard)
    late = first.model_copy(update={"seconds": {"wall": 99.0}})
    assert commit(run, 0, worker.annotate_rows(shard), late).tally == first
