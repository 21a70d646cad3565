"""What fails for a moment is tried again; what cannot succeed is not."""

import pytest

from pipeline.storage.folder import read_image_file
from pipeline.storage.retry import ATTEMPTS
from schemas.errors import ErrorCode, ImageError, StorageError, UserError
from tests.helpers.fault_plan import Fault
from tests.helpers.faulty_folder import FaultyFolder


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


@pytest.mark.parametrize(("action", "error"), [("full_disk", StorageError), ("denied", UserError)])
def test_a_permanent_failure_is_not_tried_again(
    faulty: FaultyFolder, action: str, error: type
) -> None:
    faulty.plan(Fault("write", action=action, times=99))
    with pytest.raises(error, match=r"No space left|permission denied"):
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
        read_image_file(f"{faulty.folder.uri}/a.jpg")
    assert caught.value.code == ErrorCode.STORAGE_ERROR
    with pytest.raises(ImageError) as caught:
        read_image_file(f"{faulty.folder.uri}/b.jpg")
    assert caught.value.code == ErrorCode.PERMISSION_DENIED
    assert read_image_file(f"{faulty.folder.uri}/a.jpg") == b"1"
