"""Fixtures of storage's tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.storage.folder import Folder
from pipeline.storage.retry import RETRY_DELAY_ENV
from tests.helpers.failing_proxy import FailingProxy
from tests.helpers.faulty_folder import FaultyFolder


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyFolder:
    return FaultyFolder(tmp_path, monkeypatch)


@dataclass(frozen=True)
class FailingBucket:
    """A prefix with one file, `a`, in a bucket behind a proxy that fails as told."""

    folder: Folder
    proxy: FailingProxy

    def count(self, method: str) -> int:
        return sum(each == method for each, _, _ in self.proxy.requests)


@pytest.fixture(scope="module")
def proxied_store(s3_endpoint: str) -> Iterator[FailingProxy]:
    """A store behind a proxy, for all clients that begin in a module: making one takes a second."""
    import s3fs

    proxy = FailingProxy(s3_endpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()  # clients keep the endpoint with which they began
        yield proxy
    proxy.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def failing_bucket(
    proxied_store: FailingProxy, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FailingBucket]:
    monkeypatch.setenv(RETRY_DELAY_ENV, "0.0005")
    bucket = FailingBucket(Folder(s3_folder), proxied_store)
    bucket.folder.atomic_write("a", b"1")
    proxied_store.requests.clear()
    yield bucket
    proxied_store.fail()
