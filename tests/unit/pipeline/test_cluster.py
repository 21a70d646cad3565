"""How many workers a machine holds."""

import pytest

from pipeline.annotate import num_threads
from pipeline.cluster import demand, fit
from schemas.config import RunConfig


@pytest.mark.parametrize(
    ("node", "wanted", "number"),
    [
        ({"CPU": 8.0}, {"CPU": 1.0, "GPU": 0.0}, 8),
        ({"CPU": 8.0}, {"CPU": 3.0, "GPU": 0.0}, 2),
        ({"CPU": 8.0}, {"CPU": 0.5, "GPU": 0.0}, 16),
        ({"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}, 0),  # no GPU
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.5}, 4),
        ({"CPU": 2.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}, 2),  # cores are the limit
        ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.2}, 5),  # 1 / 0.2 is below 5 in floats
        ({}, {"CPU": 1.0, "GPU": 0.0}, 0),
    ],
)
def test_a_node_holds_whole_workers(node, wanted, number):
    assert fit(node, wanted) == number


def test_a_worker_on_the_cpu_asks_for_no_gpu():
    run = RunConfig(gpus_per_worker=0.5, cpus_per_worker=2)
    assert demand(run, "cpu") == {"CPU": 2.0, "GPU": 0.0}
    assert demand(run, "cuda") == {"CPU": 2.0, "GPU": 0.5}


@pytest.mark.parametrize(("cores", "threads"), [(0.25, 1), (1.0, 1), (2.5, 2), (4.0, 4)])
def test_threads_follow_the_share_of_the_cores(cores, threads):
    assert num_threads(RunConfig(cpus_per_worker=cores)) == threads
