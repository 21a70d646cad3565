"""How many workers a node holds, and a Ray that does not start."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
import ray

from pipeline.job import cluster
from pipeline.job.cluster import worker_demand, workers_on
from schemas.config import RunConfig
from schemas.errors import ClusterError, ResourceError
from tests.helpers.ray_cluster import ray_cluster

__all__ = ["ray_cluster"]


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
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ClusterError, match="RAY_ADDRESS=auto"), cluster.connected():
        pass
    assert len(starts) == 1


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("answer", [None, b""])
def test_an_address_without_a_head_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, scheme: str
) -> None:
    starts = fail_starts(monkeypatch, SLOW, times=0)
    monkeypatch.setattr(cluster, "HEAD_ANSWERS_S", 0.2)
    for served in (True, False):
        with serving(answer) as port:
            address = f"{scheme}127.0.0.1:{port if served else 9}"
            monkeypatch.setenv("RAY_ADDRESS", address)
            with pytest.raises(ClusterError, match=address), cluster.connected():
                pass
    assert starts == []


def test_a_lost_head_is_waited_for_then_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "1")
    with serving(b"\0") as port:
        head = cluster.ClusterHead(f"127.0.0.1:{port}")
        head.wait()
    began = time.monotonic()
    with pytest.raises(ClusterError, match=rf"127.0.0.1:{port} has not answered for .*goes on"):
        head.wait()
    assert time.monotonic() - began < 4
    head.wait_now_and_then()  # looks seldom
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "60")
    with ExitStack() as servers:
        back = threading.Timer(0.3, lambda: servers.enter_context(serving(b"\0", port)))
        back.start()
        head.wait()
        back.join()


@pytest.mark.usefixtures("ray_cluster")
def test_a_lost_machine_of_the_job_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ASK_FOR_NODE_EVERY_S", 0.0)
    address = ray.get_runtime_context().gcs_address
    before = {node["NodeID"] for node in ray.nodes()}
    with ray_machine(address):
        (joined,) = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - before
        head = cluster.ClusterHead(address, joined)
        head.wait_now_and_then()
    while any(node["Alive"] for node in ray.nodes() if node["NodeID"] == joined):
        time.sleep(0.2)
    with pytest.raises(ClusterError, match=r"lost the machine .* the same command goes on"):
        head.wait_now_and_then()


def test_an_address_that_answers_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = fail_starts(monkeypatch, SLOW, times=0)
    with serving(b"\0") as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with cluster.connected():
            assert len(starts) == 1


def test_a_head_that_refuses_is_told_from_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_starts(monkeypatch, ConnectionError("Failed to connect"), times=1)
    with serving(b"\0") as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN"), cluster.connected():
            pass


@contextmanager
def ray_machine(address: str) -> Iterator[None]:
    """Let a machine join a cluster, and end its raylet."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=0"]
    process = subprocess.Popen([*command, f"--address={address}"], stdout=subprocess.DEVNULL)
    num_nodes = len(ray.nodes())
    try:
        while len(ray.nodes()) == num_nodes:
            assert process.poll() is None
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def serving(answer: bytes | None, port: int = 0) -> Iterator[int]:
    """Answer each connection with these bytes and close it; None: say nothing."""
    server, open_ones = socket.create_server(("127.0.0.1", port)), []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                open_ones.append(connection)
                if answer is not None:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)  # `accept` would keep a closed one open
    server.close()
    for connection in open_ones:
        connection.close()


def test_lack_of_memory_has_the_numbers_of_ray() -> None:
    told = (
        "1 worker(s) were killed due to the node running low on memory.\nMemory on the node "
        "(IP: 192.0.2.2, ID: 70aad2) was 22.32GB used / 23.54GB limit (0.948424)\nOOM kill reason"
    )
    text = cluster.lack_of_memory(RuntimeError(told))
    assert "22.32GB of 23.54GB are used on 192.0.2.2" in text
    assert cluster.lack_of_memory(RuntimeError("the worker died")) == ""


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
