"""What fails for a moment is tried again; what cannot succeed is not."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.storage.folder import Folder, read_image_file
from pipeline.storage.retry import ATTEMPTS, DEFAULT_TIMEOUT_S, TIMEOUT_ENV, Deadline, timeout_s
from schemas.errors import ConfigError, ErrorCode, ImageError, StorageError, UserError
from tests.helpers.failing_proxy import Rule
from tests.helpers.fault_plan import Fault
from tests.helpers.faulty_folder import FaultyFolder
from tests.helpers.places import ANYWHERE
from tests.unit.pipeline.storage.conftest import FailingBucket


def test_a_passing_failure_is_tried_again(faulty: FaultyFolder) -> None:
    faulty.plan(Fault("write", times=2), Fault("read", times=ATTEMPTS - 1), Fault("list"))
    faulty.folder.atomic_write("a", b"1")
    assert faulty.folder.read_bytes("a") == b"1"
    assert faulty.folder.list() == ["a"]
    assert (faulty.count("write"), faulty.count("read"), faulty.count("list")) == (3, ATTEMPTS, 2)


def test_a_lasting_failure_ends_in_a_storage_error(faulty: FaultyFolder) -> None:
    faulty.plan(Fault("write", times=99))
    with pytest.raises(StorageError, match=r"cannot write faulty://.*/a: .*planned failure"):
        faulty.folder.atomic_write("a", b"1")
    assert faulty.count("write") == ATTEMPTS


def test_a_permanent_failure_is_not_tried_again(faulty: FaultyFolder) -> None:
    faulty.plan(Fault("write", action="denied", times=99))
    with pytest.raises(UserError, match="permission denied"):
        faulty.folder.atomic_write("a", b"1")
    assert faulty.count("write") == 1


def test_a_truncated_write_is_repaired_by_the_next_try(faulty: FaultyFolder) -> None:
    faulty.plan(Fault("write", action="truncate"))
    faulty.folder.atomic_write("a", b"0123456789")
    assert faulty.folder.read_bytes("a") == b"0123456789"


def test_read_image_file_gives_codes_after_the_retries(faulty: FaultyFolder) -> None:
    faulty.folder.atomic_write("a.jpg", b"1")
    faulty.plan(Fault("read", r"a\.jpg", times=ATTEMPTS), Fault("read", r"b\.jpg", action="denied"))
    with pytest.raises(ImageError) as caught:
        read_image_file(f"{faulty.folder.uri}/a.jpg", ANYWHERE)
    assert caught.value.code == ErrorCode.STORAGE_ERROR
    with pytest.raises(ImageError) as caught:
        read_image_file(f"{faulty.folder.uri}/b.jpg", ANYWHERE)
    assert caught.value.code == ErrorCode.PERMISSION_DENIED
    assert read_image_file(f"{faulty.folder.uri}/a.jpg", ANYWHERE) == b"1"


OPERATIONS: dict[str, tuple[str, Callable[[Folder], object]]] = {
    "read": ("GET", lambda folder: folder.read_bytes("a")),
    "size": ("HEAD", lambda folder: folder.size("a")),
    "list": ("LIST", lambda folder: folder.list()),
    "peek": ("LIST", lambda folder: folder.peek(3)),
    "write": ("PUT", lambda folder: folder.atomic_write("b", b"2")),
    "create": ("PUT", lambda folder: folder.create_once("d", b"3")),
    "delete": ("DELETE", lambda folder: folder.delete("a")),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_a_silent_store_ends_with_its_budget(
    name: str, failing_bucket: FailingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, operation = OPERATIONS[name]
    monkeypatch.setenv(TIMEOUT_ENV, "0.4")
    failing_bucket.proxy.fail(Rule(method, "hang"))
    began = time.monotonic()
    with pytest.raises(StorageError, match="did not answer"):
        operation(failing_bucket.folder)
    assert time.monotonic() - began < 3
    failing_bucket.proxy.fail()
    operation(failing_bucket.folder)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_tries_of_all_layers_are_counted_once(name: str, failing_bucket: FailingBucket) -> None:
    method, operation = OPERATIONS[name]
    for answer in ("503", "reset") if name == "read" else ("503",):
        failing_bucket.proxy.fail()
        failing_bucket.folder.atomic_write("a", b"1")
        failing_bucket.proxy.requests.clear()
        failing_bucket.proxy.fail(Rule(method, answer, times=ATTEMPTS - 1))
        operation(failing_bucket.folder)
        assert failing_bucket.count(method) == ATTEMPTS, answer


def test_after_a_whole_budget_a_dead_store_has_one_try_until_it_answers(
    failing_bucket: FailingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_ENV, "0.4")
    folder = failing_bucket.folder
    failing_bucket.proxy.fail(Rule("GET", "hang", times=1), Rule("GET", "503"))
    for _ in range(3):
        with pytest.raises(StorageError):
            folder.read_bytes("a")
    tries = failing_bucket.count("GET")
    with pytest.raises(StorageError):
        folder.read_bytes("a")
    assert failing_bucket.count("GET") == tries + 1
    failing_bucket.proxy.fail()
    assert folder.read_bytes("a") == b"1"
    failing_bucket.proxy.fail(Rule("GET", "503", times=2))
    assert folder.read_bytes("a") == b"1"


def test_writes_that_hang_cost_one_budget_although_reads_succeed(
    failing_bucket: FailingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_ENV, "0.6")
    folder = failing_bucket.folder
    failing_bucket.proxy.fail(Rule("PUT", "hang", times=1), Rule("PUT", "503"))
    with pytest.raises(StorageError):
        folder.atomic_write("b", b"2")
    for name in ("c", "d"):
        assert folder.read_bytes("a") == b"1"
        tries = failing_bucket.count("PUT")
        with pytest.raises(StorageError):
            folder.create_once(name, b"3")
        assert failing_bucket.count("PUT") == tries + 1
    failing_bucket.proxy.fail()
    folder.atomic_write("b", b"2")


def test_images_of_a_dead_store_cost_one_budget_although_it_takes_their_rows(
    failing_bucket: FailingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_ENV, "0.6")
    folder, image = failing_bucket.folder, f"{failing_bucket.folder.uri}/a"
    failing_bucket.proxy.fail(Rule("GET", "hang"))

    def code() -> str:
        with pytest.raises(ImageError) as caught:
            read_image_file(image, ANYWHERE)
        return str(caught.value.code)

    began = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: code(), range(4))) == {"storage_error"}
        folder.atomic_write("rows", b"1")
        tries = failing_bucket.count("GET")
        assert set(threads.map(lambda _: code(), range(400))) == {"storage_error"}
    assert failing_bucket.count("GET") - tries < 5
    assert time.monotonic() - began < 3 * 0.6
    failing_bucket.proxy.fail()
    assert read_image_file(image, ANYWHERE) == b"1"


def test_a_single_image_that_hangs_is_no_outage(
    failing_bucket: FailingBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_ENV, "0.4")
    failing_bucket.folder.atomic_write("b", b"2")
    failing_bucket.proxy.fail(Rule("GET", "hang", path="/a"))
    uri = failing_bucket.folder.uri
    with ThreadPoolExecutor(1) as thread:
        hanging = thread.submit(read_image_file, f"{uri}/a", ANYWHERE)
        while not failing_bucket.count("GET"):
            time.sleep(0.001)
        monkeypatch.setenv(TIMEOUT_ENV, "10")  # a busy machine may take more than 0.4 s for these
        assert read_image_file(f"{uri}/b", ANYWHERE) == b"2"
        assert hanging.exception()
    failing_bucket.proxy.fail(Rule("GET", "503", times=3))
    assert read_image_file(f"{uri}/b", ANYWHERE) == b"2"  # several tries, not one


def test_a_large_file_has_a_longer_budget() -> None:
    deadline = Deadline(10)
    for _ in range(2):  # each try says it
        deadline.allow(10 << 20)
    assert 49 < deadline.left_s <= 50


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_a_budget_that_is_no_number_of_seconds_is_named(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_ENV, text)
    with pytest.raises(ConfigError, match=TIMEOUT_ENV):
        timeout_s()
    monkeypatch.delenv(TIMEOUT_ENV)
    assert timeout_s() == DEFAULT_TIMEOUT_S
