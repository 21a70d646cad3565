"""A folder's own promises, beside those of the contract suite: creation once, places for files."""

from pathlib import Path

import pytest

from pipeline.storage.folder import Folder, read_image_file
from schemas.errors import ConfigError, ImageError, StorageError, UserError
from tests.helpers.failing_proxy import Rule
from tests.helpers.fault_plan import Fault
from tests.helpers.faulty_folder import FaultyFolder
from tests.helpers.places import ANYWHERE
from tests.unit.pipeline.storage.conftest import FailingBucket


def test_create_once_whose_answer_was_lost_is_ours(faulty: FaultyFolder) -> None:
    faulty.plan(Fault("create", action="lost_answer"))
    assert faulty.folder.create_once("marker", b"ours")
    assert not faulty.folder.create_once("marker", b"theirs")
    assert faulty.folder.read_bytes("marker") == b"ours"


def test_create_once_that_fails_is_an_error(faulty: FaultyFolder) -> None:
    faulty.plan(Fault("create", times=99))
    with pytest.raises(StorageError):
        faulty.folder.create_once("marker", b"ours")


def test_a_name_that_is_too_long_and_a_file_in_the_way(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    name = "ü" * 120
    folder.atomic_write(name, b"1")
    assert folder.list() == [name]
    with pytest.raises(StorageError, match="too long"):
        folder.atomic_write("x" * 300, b"1")
    for write in (folder.atomic_write, folder.create_once):
        with pytest.raises(UserError, match="choose another place"):
            write(f"{name}/below", b"1")
    assert not folder.exists(f"{name}/below")


@pytest.mark.parametrize(
    "uri", ["s3://key:secret@bucket/x", "https://user:secret@host/a.jpg", "sftp://me:secret@host/x"]
)
def test_a_url_with_a_password_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match="environment only") as caught:
        Folder(uri)
    assert "secret" not in str(caught.value)
    with pytest.raises(ImageError) as failed:
        read_image_file(uri, ANYWHERE)
    assert "secret" not in str(failed.value)


def deny(method: str) -> Rule:
    return Rule(method, "403:AccessDenied")


@pytest.mark.parametrize(
    "rule",
    [
        Rule("PUT", "501:NotImplemented", header="If-None-Match"),
        Rule("PUT", "400:InvalidArgument", header="If-None-Match"),
        Rule("PUT", "ignore", header="If-None-Match"),
    ],
    ids=lambda rule: rule.answer,
)
def test_stores_without_conditional_creation_are_told_and_looked_at_first(
    failing_bucket: FailingBucket, rule: Rule
) -> None:
    folder = failing_bucket.folder
    assert folder.creates_once("a")
    failing_bucket.proxy.fail(rule)
    assert not folder.creates_once("a")
    assert folder.create_once("b", b"2")
    assert not folder.create_once("b", b"3")
    assert (folder.read_bytes("a"), folder.read_bytes("b")) == (b"1", b"2")


@pytest.mark.parametrize("code", ["412:PreconditionFailed", "409:FileAlreadyExists"])
def test_every_answer_that_a_file_exists_counts(failing_bucket: FailingBucket, code: str) -> None:
    failing_bucket.proxy.fail(Rule("PUT", code))
    assert failing_bucket.folder.creates_once("a")
    assert not failing_bucket.folder.create_once("a", b"2")


def test_nothing_is_deleted_where_nothing_is(failing_bucket: FailingBucket) -> None:
    failing_bucket.folder.delete("nothing")
    assert failing_bucket.count("DELETE") == 0
    failing_bucket.folder.delete("a")
    assert failing_bucket.count("DELETE") == 1
    assert not failing_bucket.folder.exists("a")


def test_a_missing_permission_of_s3_is_named(failing_bucket: FailingBucket) -> None:
    folder = failing_bucket.folder
    failing_bucket.proxy.fail(*(deny(method) for method in ("LIST", "HEAD", "PUT", "DELETE")))
    for operation, action in (
        (lambda: folder.list(), "s3:ListBucket"),
        (lambda: folder.exists("nothing"), "s3:ListBucket"),
        (lambda: folder.atomic_write("b", b""), "s3:PutObject"),
    ):
        with pytest.raises(UserError, match=action):
            operation()
    failing_bucket.proxy.fail(deny("DELETE"))
    with pytest.raises(UserError, match="s3:DeleteObject"):
        folder.delete("a")
    folder.discard("a")


def test_a_bucket_that_does_not_exist_is_the_users_error(s3_endpoint: str) -> None:
    for read in (Folder.list, Folder.walk, lambda folder: folder.peek(2)):
        with pytest.raises(UserError, match=r"no-such-bucket/x.*check its spelling"):
            read(Folder("s3://no-such-bucket/x"))
