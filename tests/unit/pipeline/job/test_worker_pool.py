"""The worker pool on a real cluster of four cores."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from pipeline.annotate.build import Built
from pipeline.job import cluster
from pipeline.job.worker import WorkerSetup
from pipeline.job.worker_pool import WorkerPool
from schemas.config import RunConfig
from schemas.errors import WeightsError
from tests.helpers.colour_segmenter import BuildColourSegmenter, colour_config
from tests.helpers.ray_cluster import ray_cluster

__all__ = ["ray_cluster"]
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]


@dataclass(frozen=True)
class BuildFails:
    def __call__(self, config, device) -> Built:
        raise WeightsError("no weights")


def make_pool(tmp_path, build, max_useful, **run):
    config = colour_config(tmp_path / "images", tmp_path / "run", run={"local": False, **run})
    return WorkerPool(WorkerSetup(config, "cpu", build), max_useful)


def test_pool_starts_no_more_workers_than_are_useful(tmp_path):
    pool = make_pool(tmp_path, BuildColourSegmenter(), max_useful=1, workers=3)
    try:
        assert pool.size == 1
        worker = pool.wait_for_first()
        assert pool.weights == {"colours": "0" * 64}
        assert pool.starting == []
        pool.replace(worker)
        assert len(pool.starting) == pool.size == 1
    finally:
        pool.stop_all()
    assert pool.size == 0


def test_pool_without_a_number_of_workers_fills_the_cluster(tmp_path):
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    pool = make_pool(tmp_path, BuildColourSegmenter(), max_useful=99, cpus_per_worker=2)
    assert pool.size == 2
    pool.stop_all()


def test_build_error_of_the_first_worker_is_raised(tmp_path):
    pool = make_pool(tmp_path, BuildFails(), max_useful=1)
    try:
        with pytest.raises(WeightsError, match="no weights"):
            pool.wait_for_first()
    finally:
        pool.stop_all()


@dataclass(frozen=True)
class BuildSlowly(BuildColourSegmenter):
    until: str = ""

    def __call__(self, config, device) -> Built:
        while not Path(self.until).exists():
            time.sleep(0.05)
        return super().__call__(config, device)


def tell_until(pool, caplog, text):
    """Have the slow start told until the line says a text."""
    deadline = time.monotonic() + 120
    while text not in caplog.text and time.monotonic() < deadline:
        caplog.clear()
        pool.tell_of_slow_start(35.0)
    return caplog.text


def test_a_slow_start_says_who_loads_and_who_has_no_room(tmp_path, caplog):
    caplog.set_level("INFO")
    build = BuildSlowly(until=str(tmp_path / "go"))
    pool = make_pool(tmp_path, build, max_useful=2, workers=2, cpus_per_worker=2)
    try:
        told = tell_until(pool, caplog, "2 of 2 workers of this run started")
        assert "after 35 s: 2 of 2 workers of this run started, and load the networks" in told
        assert "room" not in told
        assert "free" not in told
    finally:
        pool.stop_all()
    pool = make_pool(tmp_path, build, max_useful=2, workers=2, cpus_per_worker=3)
    try:
        told = tell_until(pool, caplog, "1 of 2 workers of this run started")
        assert "1 of 2 workers of this run have not answered yet" in told
        assert "there is no room for them yet: a worker needs 3 CPU (free: 1 of 4)" in told
        (tmp_path / "go").touch()
        pool.wait_for_first()
    finally:
        pool.stop_all()


class Busy:
    def __init__(self, setup):
        pass

    def work(self):
        time.sleep(2)

    def waits(self):
        return "waiting: read s3://bucket/a.png"


def test_a_worker_answers_while_it_works():
    run = RunConfig(device="cpu")
    actor = cluster.start_actor(Busy, None, run, cluster.worker_demand(run, "cpu"))
    ray.get(actor.waits.options(concurrency_group=cluster.NOTES).remote())
    work = actor.work.remote()
    answer = actor.waits.options(concurrency_group=cluster.NOTES).remote()
    assert ray.get(answer) == "waiting: read s3://bucket/a.png"
    assert ray.wait([work], timeout=0) == ([], [work])
    ray.kill(actor)
