"""Fixtures for every room: fast retries, a store that speaks S3, no credentials but dummies."""

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from pipeline.storage.retry import RETRY_DELAY_ENV

_DUMMY_AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

# Machines are shared: no test is judged by its time.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Ray, real kills and waits: one process runs them all, so that none disturbs another
_TOGETHER = (
    "tests/fault/",
    "tests/integration/test_job_ray.py",
    "tests/integration/test_metrics.py",
    "tests/integration/test_submit.py",
    "tests/unit/pipeline/job/test_cluster.py",
    "tests/unit/pipeline/job/test_worker_pool.py",
    "tests/unit/pipeline/training/students/test_ray_workers.py",
)


def pytest_configure() -> None:
    """Share the cores between the processes of `make test`, before torch is imported.

    Two processes with two threads each on two cores are many times slower than one.
    """
    if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, (os.cpu_count() or 1) // int(processes))
        for name in _THREAD_VARIABLES:
            os.environ.setdefault(name, str(threads))


@pytest.hookimpl(optionalhook=True)
def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their parameter: an archive holds the time at which it was packed.

    Else the processes of one run, which start at different times, have tests of different names.
    """
    return argname if isinstance(val, bytes) else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to a process, so that no fixture of a module is made twice."""
    from xdist.scheduler import LoadFileScheduling

    class Rooms(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return _TOGETHER[0] if file.startswith(_TOGETHER) else file

    return Rooms(config, log)


@pytest.fixture(scope="session", autouse=True)
def quick_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set what this process and all that it starts should see; the user's caches stay untouched."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(RETRY_DELAY_ENV, "0.002")
        patch.setenv("OVSEG_CACHE", str(cache))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("COLUMNS", raising=False)  # a terminal's width, which tables follow
        # It guards against a power cut, which no test makes; thousands of them cost minutes. The
        # processes that tests kill are others, and have it.
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Serve S3 on the loopback for this session and point the AWS variables at it."""
    server = pytest.importorskip("moto.server", reason="moto's server is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in _DUMMY_AWS.items():
            patch.setenv(name, value)
        serving = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        serving.start()
        host, port = serving.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield f"http://{host}:{port}"
        serving.stop()


@pytest.fixture
def s3_folder(s3_endpoint: str) -> str:
    """Return the URL of an empty prefix in a bucket of its own."""
    import s3fs

    bucket = f"bucket-{uuid.uuid4()}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/folder"
