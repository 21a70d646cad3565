"""What takes long is said; threads whose work is not wanted any more do not delay the end."""

import threading
import time
from concurrent.futures import Future

import pytest

from pipeline.storage.waiting import (
    EVERY_S,
    FIRST_S,
    StorageThreads,
    Wait,
    current_line,
    wait_line,
    waiting,
)
from schemas.errors import StorageError
from tests.helpers.failing_proxy import Rule
from tests.unit.pipeline.storage.conftest import FailingBucket


def test_long_waits_are_said_the_longest_first_and_short_ones_not() -> None:
    waits = [Wait(f"read s3://bucket/{number}") for number in range(4)]
    now = waits[0].began_s
    for number, wait in enumerate(waits):
        wait.began_s = now - FIRST_S - number
    short = Wait("list s3://bucket/x")
    short.began_s = now - FIRST_S / 2
    waits[3].detail = "try 2 failed: SlowDown"
    line = wait_line([*waits, short], now)
    assert line.startswith("waiting: read s3://bucket/3 since ")
    assert "(18 s); try 2 failed: SlowDown; read s3://bucket/2 since " in line
    assert line.endswith("and 2 more")
    assert wait_line([short], now) == ""
    assert wait_line([Wait("load the libraries", said_after_s=0), short], now + 1)
    assert FIRST_S + EVERY_S < 60


def test_a_secret_in_a_url_is_not_said() -> None:
    assert "SECRET" not in Wait("read https://host/a.jpg?X-Amz-Signature=SECRET").what


def test_a_long_list_says_how_many_files_so_far() -> None:
    wait = Wait("list s3://bucket")
    assert sum(1 for _ in wait.counted(range(2500), "files")) == 2500
    assert wait.detail == "2,000 files so far"


def test_a_wait_is_over_with_its_block() -> None:
    with waiting("find the grail") as wait:
        wait.began_s -= 100
        assert "find the grail" in current_line()
    assert current_line() == ""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ctrl_c_ends_threads_that_wait_for_a_silent_store(
    failing_bucket: FailingBucket, method: str
) -> None:
    failing_bucket.proxy.fail(Rule(method, "hang"), Rule("PUT", "503"))
    folder, futures = failing_bucket.folder, list[Future]()

    def interrupted() -> None:
        with StorageThreads(2) as threads:
            read = folder.read_bytes if method == "GET" else folder.size
            futures.extend(threads.submit(read, "a") for _ in range(3))
            time.sleep(0.2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    began = time.monotonic()
    for future in futures[:2]:
        assert isinstance(future.exception(timeout=5), StorageError)
    assert futures[2].cancelled()
    assert time.monotonic() - began < 2


def test_threads_finish_their_work_when_nothing_is_wrong() -> None:
    done = threading.Event()
    with StorageThreads(2) as threads:
        threads.submit(lambda: (time.sleep(0.1), done.set()))
    assert done.is_set()
