"""A folder's own promises, beside those of the contract suite: creation once, places for files."""

from pathlib import Path

import pytest

from pipeline.storage.folder import Folder, read_image_file
from schemas.errors import ConfigError, ImageError, StorageError, UserError
from tests.helpers.fault_plan import Fault
from tests.helpers.faulty_folder import FaultyFolder


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
        read_image_file(uri)
    assert "secret" not in str(failed.value)
