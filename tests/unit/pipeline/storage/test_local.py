"""Files of this machine: whole or not at all, links, special files."""

import hashlib
import os
import pickle
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.storage.folder import Folder, read_image_file
from pipeline.storage.local import FileTooLargeError, NotAFileError, folder_state
from schemas.errors import ErrorCode, ImageError, UserError
from tests.helpers.fault_plan import Fault, fault_environment
from tests.helpers.places import ANYWHERE
from tests.helpers.python_process import run_python


@pytest.mark.parametrize("call", ["os.rename", "os.link"])
def test_a_writer_killed_before_the_last_step_leaves_no_file(tmp_path: Path, call: str) -> None:
    env = fault_environment(tmp_path / "plan", [Fault(call, "target$", action="kill")])
    write = "atomic_write" if call == "os.rename" else "create_once"
    code = (
        "import sys; from pipeline.storage.folder import Folder\n"
        f"Folder(sys.argv[1]).{write}('target', b'x')"
    )
    assert run_python(code, str(tmp_path / "out"), **env).returncode == -9
    folder = Folder(str(tmp_path / "out"))
    assert not folder.exists("target")
    assert [name.startswith(".target.") for name in folder.list()] == [True]
    assert run_python(code, str(tmp_path / "out"), **env).returncode == 0
    assert folder.read_bytes("target") == b"x"


def test_a_write_that_finds_no_room_leaves_the_old_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.atomic_write("x", b"old")
    code = (
        "import resource, sys; from pipeline.storage.folder import Folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "Folder(sys.argv[1]).atomic_write('x', b'1' * 100_000)"
    )
    assert "BlockedStoreError: cannot write" in run_python(code, str(tmp_path)).stderr
    assert folder.list() == ["x"]
    assert folder.read_bytes("x") == b"old"


def test_readers_never_see_a_part_of_a_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    contents = [bytes([letter]) * 300_000 for letter in b"ab"]
    folder.atomic_write("x", contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                folder.atomic_write("x", content)

    thread = threading.Thread(target=write)
    thread.start()
    seen = {folder.read_bytes("x") for _ in range(200)}
    stop.set()
    thread.join()
    assert seen <= set(contents)


def test_folders_and_pipes_are_not_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    found = []
    for name in ("pipe.jpg", "folder.jpg"):
        with pytest.raises(ImageError) as caught:
            read_image_file(str(tmp_path / name), ANYWHERE)
        found.append(caught.value.code)
    assert found == [ErrorCode.NOT_AN_IMAGE, ErrorCode.NOT_AN_IMAGE]
    assert Folder(str(tmp_path)).walk() == []


def test_nothing_but_files_of_a_sensible_size_is_read_as_a_file(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for, a device read, for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "fits").write_bytes(b"12345")
    folder = Folder(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name in ("pipe", "folder", "device", "socket"):
            with pytest.raises(NotAFileError, match=f"{name} is a {name}, expected a file"):
                folder.read_bytes(name)
    with pytest.raises(FileTooLargeError, match="has 1,099,511,627,776 bytes, expected at most 5"):
        folder.read_bytes("large", 5)
    assert folder.read_bytes("fits", 5) == b"12345"
    error = pickle.loads(pickle.dumps(NotAFileError("x", (tmp_path / "pipe").stat().st_mode)))
    assert str(error) == "x is a pipe, expected a file"
    assert error.args == ("x is a pipe, expected a file",), "the command line prints them"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"1")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    assert Folder(str(tmp_path)).list() == ["a/x", "b/x"]


@pytest.mark.parametrize("link", ["x", "sub", "sub/x"])
@pytest.mark.parametrize("is_child", [False, True])
def test_a_folder_may_follow_no_link(tmp_path: Path, link: str, is_child: bool) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("x", "sub/x", "sub/y"):
        (outside / name).write_bytes(b"theirs")
    here = tmp_path / ("place/here" if is_child else "here")
    (here / link).parent.mkdir(parents=True)
    (here / link).symlink_to(outside / link)
    folder = Folder(str(tmp_path / "place"), follow_links=False).child("here")
    folder = folder if is_child else Folder(str(here), follow_links=False)
    name = "sub/x" if link.startswith("sub") else "x"
    calls: list[Callable[[], object]] = [
        lambda: folder.read_bytes(name),
        lambda: folder.exists(name),
        lambda: folder.atomic_write(name, b"ours"),
        lambda: folder.create_once(name, b"ours"),
        lambda: folder.delete(name),
        lambda: folder.put_file(name, _file(tmp_path / "new")),
    ]
    for call in calls:
        with pytest.raises(UserError, match="is a symbolic link: inside a run folder"):
            call()
    assert folder.list() == []
    assert folder.walk() == [(link, None, "")]
    left = [path.read_bytes() for path in sorted(outside.rglob("*")) if path.is_file()]
    assert left == [b"theirs"] * 3


def test_links_above_a_folder_are_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    folder = Folder(str(tmp_path / "link/run"), follow_links=False)
    folder.atomic_write("a/b", b"1")
    assert folder.list() == ["a/b"]
    assert (tmp_path / "disk/run/a/b").read_bytes() == b"1"


def test_files_are_walked_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["a-b/x", "a.png", "a/b.png", "a/b/c.png", "a0", "b/z", "é", "\U0001f40e", "\ufb01"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "b-link").symlink_to(tmp_path / "b")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to(tmp_path / "pipe")
    walked = [name for name, size, _ in Folder(str(tmp_path)).walk() if size is not None]
    assert walked == sorted([*names, "b-link/z"])
    assert ("to-pipe", None, "") in Folder(str(tmp_path)).walk()


def test_the_state_of_a_folder_is_what_earlier_versions_say(tmp_path: Path) -> None:
    """Runs store it, so the order in which files are hashed stays: by name in each folder."""
    digest = hashlib.sha256()
    for name in ("a/b.png", "a-b/x", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, ns=(5, 5))
        digest.update(f"{name}\0001\0005\n".encode())
    assert folder_state(str(tmp_path), "x") == f"3 files, {digest.hexdigest()[:12]}"


def _file(path: Path) -> Path:
    path.write_bytes(b"ours")
    return path
