"""How many workers a node holds, and a Ray that does not start."""

import pytest
import ray

from pipeline.job import cluster
from pipeline.job.cluster import worker_demand, workers_on
from schemas.config import RunConfig
from schemas.errors import ResourceError


def fail_starts(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> list[dict]:
    """Let the next `times` starts of Ray fail; return the arguments of each start."""
    starts: list[dict] = []

    def init(**arguments: object) -> None:
        starts.append(arguments)
        if len(starts) <= times:
            raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return starts


SLOW = Exception("The current node timed out during startup.")  # Ray raises the bare class


def test_slow_start_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = fail_starts(monkeypatch, SLOW, times=1)
    with cluster.connected():
        assert len(starts) == 2
    assert all(arguments["address"] == "local" for arguments in starts)


def test_two_slow_starts_are_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_starts(monkeypatch, SLOW, times=2)
    with pytest.raises(ResourceError, match=r"run\.local=true"), cluster.connected():
        pass


def test_no_cluster_is_started_where_an_address_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = fail_starts(monkeypatch, SLOW, times=1)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"RAY_ADDRESS=127\.0\.0\.1:9"), cluster.connected():
        pass
    assert len(starts) == 1


def test_other_exceptions_of_a_start_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = fail_starts(monkeypatch, TypeError("unexpected argument"), times=1)
    with pytest.raises(TypeError), cluster.connected():
        pass
    assert len(starts) == 1


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
def test_workers_on_a_node_are_whole(node, wanted, number):
    assert workers_on(node, wanted) == number


def test_worker_demand_on_the_cpu_has_no_gpu():
    run = RunConfig(gpus_per_worker=0.5, cpus_per_worker=2)
    assert worker_demand(run, "cpu") == {"CPU": 2.0, "GPU": 0.0}
    assert worker_demand(run, "cuda") == {"CPU": 2.0, "GPU": 0.5}
