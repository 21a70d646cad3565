"""What a client's error means: the user's mistake, an outage, a full store, expired credentials."""

import errno
from collections.abc import Callable

import pytest

from pipeline.storage.failures import plain
from pipeline.storage.folder import Folder
from schemas.errors import BlockedStoreError, OutageError, StorageError, UserError
from tests.helpers.failing_proxy import Rule
from tests.helpers.fault_plan import Fault
from tests.helpers.faulty_folder import FaultyFolder
from tests.unit.pipeline.storage.conftest import FailingBucket

FULL = "is full, or your share of it: make room"
EXPIRED = "the credentials have expired: renew them"

OPERATIONS: dict[str, tuple[str, Callable[[Folder], object]]] = {
    "GET": ("read", lambda folder: folder.read_bytes("a")),
    "HEAD": ("look at", lambda folder: folder.exists("a")),
    "LIST": ("list", lambda folder: folder.list()),
    "PUT": ("write", lambda folder: folder.atomic_write("b", b"2")),
}


@pytest.mark.parametrize("method", OPERATIONS)
@pytest.mark.parametrize(
    ("answer", "error", "named"),
    [
        ("400:ExpiredToken", BlockedStoreError, EXPIRED),
        ("403:ExpiredTokenException", BlockedStoreError, EXPIRED),
        ("503", StorageError, "503|injected|Unavailable"),
        ("400:InvalidToken", UserError, "no credentials"),
        ("403:InvalidAccessKeyId", UserError, "no credentials"),
        ("403:SignatureDoesNotMatch", UserError, "no credentials"),
        ("403:AccessDenied", UserError, "permission denied"),
        ("400:InvalidBucketName", UserError, "check the bucket's name"),
    ],
)
def test_an_answer_of_s3_is_an_outage_or_the_users_error_in_every_operation(
    answer: str, error: type, named: str, method: str, failing_bucket: FailingBucket
) -> None:
    verb, operation = OPERATIONS[method]
    failing_bucket.proxy.fail(Rule("", answer))  # an answer to HEAD has no text; others say why
    with pytest.raises(error, match=f"cannot {verb} s3://.*({named})") as caught:
        operation(failing_bucket.folder)
    assert isinstance(caught.value, OutageError) == (error is not UserError)
    assert ("s3:" in str(caught.value).replace("s3://", "")) == ("AccessDenied" in answer)
    assert "\n" not in str(caught.value)
    assert answer == "503" or failing_bucket.count(method) <= 2  # botocore asks for the region


@pytest.mark.parametrize(
    "answer",
    [
        "507:InsufficientStorage",
        "507:Anything",
        "507:XMinioStorageFull",
        "400:XMinioAdminBucketQuotaExceeded",
        "403:QuotaExceeded",
    ],
)
def test_a_full_store_is_named_and_not_tried_again(
    answer: str, failing_bucket: FailingBucket
) -> None:
    failing_bucket.proxy.fail(Rule("PUT", answer))
    for write in (Folder.atomic_write, Folder.create_once):
        failing_bucket.proxy.requests.clear()
        with pytest.raises(BlockedStoreError, match=FULL):
            write(failing_bucket.folder, "b", b"2")
        assert failing_bucket.count("PUT") == 1
    failing_bucket.proxy.fail()
    assert failing_bucket.folder.create_once("b", b"2")


def test_a_full_disk_is_named(faulty: FaultyFolder) -> None:
    faulty.plan(Fault("write", action="full_disk", times=99))
    with pytest.raises(BlockedStoreError, match=f"{FULL} .*No space left"):
        faulty.folder.atomic_write("a", b"1")
    assert faulty.count("write") == 1
    quota = plain(OSError(errno.EDQUOT, "Disk quota exceeded"), "write", "/a")
    assert isinstance(quota, BlockedStoreError)
