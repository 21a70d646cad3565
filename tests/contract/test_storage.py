"""One behaviour at every place: the local disk, memory, and S3 through a real server."""

import pickle
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline.storage.folder import Folder, fetch, read_image_file
from schemas.errors import ErrorCode, ImageError
from tests.helpers.places import ANYWHERE

NAMES = [
    "plain.bin",
    "a/b/c.bin",
    "with space.bin",
    "ünï-日本.bin",
    "#1.bin",
    "100%41.bin",
    "~x",
    "q?.bin",
]


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Return an empty folder at each kind of place."""
    if request.param == "local":
        return Folder(str(tmp_path / "ein Ordner #1 100%"))
    if request.param == "memory":
        return Folder(f"memory://{uuid.uuid4()}/folder")
    return Folder(request.getfixturevalue("s3_folder"))


def test_nothing_is_there_at_first(folder: Folder) -> None:
    assert folder.list() == []
    assert folder.peek(5) == []
    assert not folder.exists("a.bin")
    with pytest.raises(FileNotFoundError, match=r"a\.bin"):
        folder.read_bytes("a.bin")
    folder.delete("a.bin")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_kept_as_they_are(folder: Folder, name: str) -> None:
    folder.atomic_write(name, b"content")
    assert folder.read_bytes(name) == b"content"
    assert folder.list() == [name]
    assert folder.exists(name)
    assert folder.size(name) == 7
    assert read_image_file(f"{folder.uri}/{name}", ANYWHERE) == b"content"
    folder.delete(name)
    assert folder.list() == []


def test_list_is_recursive_sorted_and_bounded_by_the_folder(folder: Folder) -> None:
    for name in ("b/2", "b/1", "a", "bb/3"):
        folder.atomic_write(name, name.encode())
    assert folder.list() == ["a", "b/1", "b/2", "bb/3"]
    assert folder.list("b") == ["b/1", "b/2"]
    assert folder.child("b").list() == ["1", "2"]
    assert folder.sizes("b") == {"b/1": 3, "b/2": 3}
    assert len(folder.peek(2)) == 2
    assert not folder.exists("b")
    assert sorted(name for name, _, _ in Folder(folder.uri + "/").walk()) == [
        "a",
        "b/1",
        "b/2",
        "bb/3",
    ]


def test_more_files_than_a_page(s3_folder: str) -> None:
    folder = Folder(s3_folder)
    names = [f"{index:04d}" for index in range(1003)]
    fsspec.filesystem("s3").pipe({f"{folder.uri}/{name}": b"x" for name in names})
    assert folder.list() == names


def test_writing_again_replaces(folder: Folder) -> None:
    folder.atomic_write("a", b"old and longer")
    folder.atomic_write("a", b"new")
    assert folder.read_bytes("a") == b"new"
    folder.atomic_write("empty", b"")
    assert folder.read_bytes("empty") == b""


def test_the_hash_of_files_changes_with_names_and_content_of_those_alone(folder: Folder) -> None:
    for name in ("a/1.png", "a/2.png", "other"):
        folder.atomic_write(name, name.encode())
    names = ["a/2.png", "a/1.png"]
    first = folder.sha256(names)
    folder.atomic_write("other", b"something else")
    assert folder.sha256(sorted(names)) == first
    assert folder.sha256(names[:1]) != first
    folder.atomic_write("a/2.png", b"a/1.png")  # of the same size
    second = folder.sha256(names)
    assert second != first
    folder.atomic_write("a/2.png", b"a/2.png")  # only the time of change is another
    assert folder.sha256(names) == first
    folder.delete("a/2.png")
    assert folder.sha256(names) not in {first, second}


def test_a_file_built_on_disk_is_put(folder: Folder, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    for data in (b"old", content):
        built = tmp_path / "built"
        built.write_bytes(data)
        folder.put_file("x/big.bin", built)
        assert folder.read_bytes("x/big.bin") == data
    fetch(f"{folder.uri}/x/big.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert folder.list() == ["x/big.bin"]


def test_a_file_built_on_another_disk_is_put(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    folder = Folder(str(tmp_path / "run"))
    with tempfile.TemporaryDirectory(dir=memory) as place:
        built = Path(place, "built")
        built.write_bytes(b"content")
        folder.put_file("x/file", built)
    assert folder.read_bytes("x/file") == b"content"
    assert folder.list() == ["x/file"]


def test_the_first_creation_wins(folder: Folder) -> None:
    assert folder.create_once("m/1.json", b"first")
    assert not folder.create_once("m/1.json", b"second")
    assert folder.read_bytes("m/1.json") == b"first"
    assert folder.create_once("m/1.json", b"first"), "a repeated put of our own bytes is ours"
    assert folder.list() == ["m/1.json"]


def test_one_of_many_creators_wins(folder: Folder) -> None:
    if folder.uri.startswith("memory:"):
        pytest.skip("fsspec's memory checks and writes in two steps: it is for one thread only")
    contents = [f"creator {index}".encode() for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda data: folder.create_once("one", data), contents))
    assert sum(won) == 1
    assert folder.read_bytes("one") == contents[won.index(True)]
    assert folder.list() == ["one"]


def test_a_folder_travels_by_pickle(folder: Folder) -> None:
    folder.atomic_write("a", b"1")
    assert pickle.loads(pickle.dumps(folder)).read_bytes("a") == b"1"


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b"]
)
def test_paths_stay_inside(folder: Folder, path: str) -> None:
    with pytest.raises(ValueError, match="relative"):
        folder.atomic_write(path, b"")


def test_reading_images_gives_codes(folder: Folder) -> None:
    folder.atomic_write("empty.jpg", b"")
    folder.atomic_write("ten.jpg", b"0123456789")

    def code(name: str, **limits: int) -> ErrorCode:
        with pytest.raises(ImageError) as caught:
            read_image_file(f"{folder.uri}/{name}", ANYWHERE, **limits)
        return caught.value.code

    assert code("missing.jpg") == ErrorCode.NOT_FOUND
    assert code("empty.jpg") == ErrorCode.EMPTY_FILE
    assert code("ten.jpg", max_bytes=9) == ErrorCode.TOO_LARGE
    assert code("ten.jpg", max_bytes=9, size_bytes=10) == ErrorCode.TOO_LARGE
    assert read_image_file(f"{folder.uri}/ten.jpg", ANYWHERE, max_bytes=10) == b"0123456789"
