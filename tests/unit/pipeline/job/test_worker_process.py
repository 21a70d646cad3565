"""Environment, threads, folder and device of a worker's process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import torch

from pipeline.job.worker_process import (
    RAY_SETTINGS,
    local_device,
    set_ray_environment,
    worker_environment,
)
from schemas.config import RunConfig
from schemas.errors import ResourceError

ENTER = """
import os, sys, torch
from pipeline.job.worker_process import enter_worker_process
from schemas.config import RunConfig
enter_worker_process(RunConfig(cpus_per_worker=3.5, local=sys.argv[2] == "local"), sys.argv[1])
print(torch.get_num_threads(), os.getcwd())
"""


def enter(folder: Path, where: str) -> list[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ENTER, str(folder), where]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


def test_worker_process_gets_its_threads_and_folder(tmp_path: Path) -> None:
    assert enter(tmp_path, "ray") == ["3", str(tmp_path)]


def test_the_log_of_a_worker_has_no_secret_and_nothing_that_a_terminal_obeys(
    tmp_path: Path,
) -> None:
    code = ENTER + 'import logging\nlogging.getLogger("x").warning("%s", sys.argv[3])'
    name = "s3://a:SECRET@b/\x1b[2J\n.png"
    command = [sys.executable, "-c", code, str(tmp_path), "ray", name]
    err = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert err.endswith("WARNING x: s3://***@b/\\x1b[2J\\n.png\n")


def test_a_worker_logs_json_where_its_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSEG_LOG_FORMAT", "json")
    environment = os.environ | worker_environment(RunConfig())
    code = ENTER + 'import logging\nlogging.getLogger("x").warning("slow")'
    command = [sys.executable, "-c", code, str(tmp_path), "ray"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["message"] == "slow"


def test_worker_process_stays_where_the_folder_does_not_exist(tmp_path: Path) -> None:
    assert enter(tmp_path / "elsewhere", "ray") == ["3", str(Path.cwd())]


def test_local_run_changes_nothing_in_its_process(tmp_path: Path) -> None:
    assert enter(tmp_path, "local") == ["1", str(Path.cwd())]


def test_worker_environment_has_threads_and_allocator() -> None:
    environment = worker_environment(RunConfig(cpus_per_worker=2.5))
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == str(32 * 2**20)


def test_ray_settings_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_USAGE_STATS_ENABLED": "1"})
    set_ray_environment()
    assert os.environ == RAY_SETTINGS | {"RAY_USAGE_STATS_ENABLED": "1"}


@contextmanager
def ray_head(wants_token: bool) -> Iterator[str]:
    """A server that answers Ray's first call as a head does; give its address."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if wants_token:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return request

    calls = {"GetClusterId": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", calls),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.mark.parametrize(
    ("wants_token", "given", "mode"),
    [(True, {}, "token"), (False, {}, None), (True, {"RAY_AUTH_MODE": "disabled"}, "disabled")],
)
def test_a_cluster_that_wants_a_token_gets_the_one_that_ray_keeps_here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wants_token: bool,
    given: dict[str, str],
    mode: str | None,
) -> None:
    with ray_head(wants_token) as address:
        variables = {"HOME": str(tmp_path), "RAY_ADDRESS": address, **given}
        monkeypatch.setattr(os, "environ", variables)
        set_ray_environment()
        assert os.environ.get("RAY_AUTH_MODE") == given.get("RAY_AUTH_MODE")
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("0" * 32)
        set_ray_environment()
        assert os.environ.get("RAY_AUTH_MODE") == mode


def test_a_ray_of_this_machine_alone_is_asked_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 32)
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    set_ray_environment()
    assert "RAY_AUTH_MODE" not in os.environ


def test_local_device_is_what_torch_has() -> None:
    assert local_device("cpu") == "cpu"
    assert local_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_local_device_without_a_gpu_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"run\.device is `cuda`"):
        local_device("cuda")
