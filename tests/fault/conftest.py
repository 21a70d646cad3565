import multiprocessing

import pytest

from pipeline.job import job
from pipeline.job.progress import Progress
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    colour_config,
    paint_collection,
    table_rows,
)
from tests.helpers.ray_cluster import ray_cluster

__all__ = ["ray_cluster"]

NUM_IMAGES = 20


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Five shards of four images; two have names that some tests make bad ones."""
    names = {9: "-poison", 18: "-break"}
    return paint_collection(tmp_path_factory.mktemp("images"), NUM_IMAGES, names)


@pytest.fixture(scope="session")
def undisturbed(images, tmp_path_factory):
    """The rows of a run in which nothing went wrong."""
    config = colour_config(images, tmp_path_factory.mktemp("undisturbed") / "run")
    assert job.run(config, Progress(), BuildColourSegmenter()).exit_code == 0
    return table_rows(config.out)


@pytest.fixture(scope="session")
def forks():
    """Processes that start at once: they are forked from a server that has imported the job."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.killed_processes"])
    return context
