"""What the contract suite does not see: retries, messages, odd local files, missing clients."""

import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tests.helpers.faulty_filesystem
from pipeline.storage import uris
from pipeline.storage.folder import Folder, read_image_file
from pipeline.storage.retry import ATTEMPTS
from schemas.errors import ConfigError, ErrorCode, ImageError, StorageError, UserError
from tests.helpers.fault_plan import PLAN_ENV, Fault, fault_environment, operations

assert tests.helpers.faulty_filesystem.FaultyFileSystem.protocol == "faulty"


def run_python(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, check=False
    )


class Faulty:
    """A `faulty://` folder in a temporary place and its plan."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch) -> None:
        self._place = place / "plan"
        self._patch = patch
        self.disk = place / "disk"
        self.folder = Folder(f"faulty://{self.disk}")

    def plan(self, *faults: Fault) -> None:
        self._patch.setenv(PLAN_ENV, fault_environment(self._place, faults)[PLAN_ENV])

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _ in operations(self._place))


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    return Faulty(tmp_path, monkeypatch)


def test_a_passing_failure_is_tried_again(faulty: Faulty) -> None:
    faulty.plan(Fault("write", times=2), Fault("read", times=ATTEMPTS - 1), Fault("list"))
    faulty.folder.atomic_write("a", b"1")
    assert faulty.folder.read_bytes("a") == b"1"
    assert faulty.folder.list() == ["a"]
    assert (faulty.count("write"), faulty.count("read"), faulty.count("list")) == (3, ATTEMPTS, 2)


def test_a_lasting_failure_ends_in_a_storage_error(faulty: Faulty) -> None:
    faulty.plan(Fault("write", times=99))
    with pytest.raises(StorageError, match=r"cannot write faulty://.*/a: .*planned failure"):
        faulty.folder.atomic_write("a", b"1")
    assert faulty.count("write") == ATTEMPTS


@pytest.mark.parametrize(("action", "error"), [("full_disk", StorageError), ("denied", UserError)])
def test_the_hopeless_is_not_tried_again(faulty: Faulty, action: str, error: type) -> None:
    faulty.plan(Fault("write", action=action, times=99))
    with pytest.raises(error, match=r"No space left|permission denied"):
        faulty.folder.atomic_write("a", b"1")
    assert faulty.count("write") == 1


def test_half_a_write_is_mended_by_the_next_try(faulty: Faulty) -> None:
    faulty.plan(Fault("write", action="truncate"))
    faulty.folder.atomic_write("a", b"0123456789")
    assert faulty.folder.read_bytes("a") == b"0123456789"


def test_a_creation_whose_answer_was_lost_is_ours(faulty: Faulty) -> None:
    faulty.plan(Fault("create", action="lost_answer"))
    assert faulty.folder.create_once("marker", b"ours")
    assert not faulty.folder.create_once("marker", b"theirs")
    assert faulty.folder.read_bytes("marker") == b"ours"


def test_a_creation_that_fails_is_no_success(faulty: Faulty) -> None:
    faulty.plan(Fault("create", times=99))
    with pytest.raises(StorageError):
        faulty.folder.create_once("marker", b"ours")


def test_codes_of_images_that_cannot_be_read(faulty: Faulty) -> None:
    faulty.folder.atomic_write("a.jpg", b"1")
    faulty.plan(Fault("read", r"a\.jpg", times=ATTEMPTS), Fault("read", r"b\.jpg", action="denied"))
    with pytest.raises(ImageError) as caught:
        read_image_file(f"{faulty.folder.uri}/a.jpg")
    assert caught.value.code == ErrorCode.STORAGE_ERROR
    with pytest.raises(ImageError) as caught:
        read_image_file(f"{faulty.folder.uri}/b.jpg")
    assert caught.value.code == ErrorCode.PERMISSION_DENIED
    assert read_image_file(f"{faulty.folder.uri}/a.jpg") == b"1"


@pytest.mark.parametrize("call", ["os.rename", "os.link"])
def test_a_writer_killed_before_the_last_step_leaves_nothing_to_see(
    tmp_path: Path, call: str
) -> None:
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


@pytest.mark.parametrize(
    "uri", ["s3://key:secret@bucket/x", "https://user:secret@host/a.jpg", "sftp://me:secret@host/x"]
)
def test_passwords_in_urls_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match="environment only") as caught:
        Folder(uri)
    assert "secret" not in str(caught.value)
    with pytest.raises(ImageError) as failed:
        read_image_file(uri)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b/", "/a/b"),
        ("/a/./b//c/../d", "/a/b/d"),
        ("file:///a/b%20c#d", "/a/b%20c#d"),
        ("FILE:///a", "/a"),
        ("s3://bucket/a//b/", "s3://bucket/a//b"),
        ("S3://Bucket", "s3://Bucket"),
        ("memory://", "memory://"),
        ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
    ],
)
def test_normal_forms(uri: str, expected: str) -> None:
    assert uris.normalise(uri) == expected
    assert uris.normalise(expected) == expected


def test_relative_and_home_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Folder("x/y").uri == str(tmp_path / "x/y")
    assert Folder("~/x").uri == str(tmp_path / "home/x")
    assert Folder("./~").uri == str(tmp_path / "~")
    assert Folder("~backup").uri == str(tmp_path / "~backup")
    with pytest.raises(ConfigError, match="empty"):
        Folder(" ")


@pytest.mark.parametrize(
    ("uri", "package", "extra"),
    [
        ("s3://b/x", "s3fs", "s3"),
        ("gs://b/x", "gcsfs", "gcs"),
        ("abfs://b@account.dfs.core.windows.net/x", "adlfs", "azure"),
    ],
)
def test_a_missing_client_names_the_extra(uri: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None  # as if it were not installed\n"
        f"from pipeline.storage.folder import Folder; Folder({uri!r}).list()"
    )
    done = run_python(code)
    assert "schemas.errors.UserError" in done.stderr
    assert f"pip install 'ovseg[{extra}]'" in done.stderr


def test_settings_that_a_client_refuses_are_the_users_error() -> None:
    pytest.importorskip("adlfs", reason="the Azure client is an extra")
    with pytest.raises(UserError, match="cannot use abfs://box"):
        Folder("abfs://box/x").list()


def test_an_unknown_scheme_is_the_users_error() -> None:
    with pytest.raises(UserError, match="unknown scheme quux://"):
        Folder("quux://x").list()


def test_a_bucket_that_is_not_there(s3_endpoint: str) -> None:
    folder = Folder("s3://no-such-bucket/x")
    assert not folder.exists("a")
    with pytest.raises(UserError, match="no-such-bucket"):
        folder.atomic_write("a", b"1")


def test_missing_credentials_are_the_users_error(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    code = "from pipeline.storage.folder import Folder; Folder('s3://b/x').read_bytes('a')"
    done = run_python(code)
    assert "schemas.errors.UserError" in done.stderr
    assert "no credentials in the environment" in done.stderr


def test_special_files_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    found = []
    for name in ("pipe.jpg", "folder.jpg"):
        with pytest.raises(ImageError) as caught:
            read_image_file(str(tmp_path / name))
        found.append(caught.value.code)
    assert found == [ErrorCode.NOT_AN_IMAGE, ErrorCode.NOT_AN_IMAGE]
    assert Folder(str(tmp_path)).walk() == []


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"1")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    assert Folder(str(tmp_path)).list() == ["a/x", "b/x"]


def test_a_long_name_and_a_file_in_the_way(tmp_path: Path) -> None:
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


def test_a_write_that_finds_no_room_leaves_the_old_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.atomic_write("x", b"old")
    code = (
        "import resource, sys; from pipeline.storage.folder import Folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "Folder(sys.argv[1]).atomic_write('x', b'1' * 100_000)"
    )
    assert "StorageError: cannot write" in run_python(code, str(tmp_path)).stderr
    assert folder.list() == ["x"]
    assert folder.read_bytes("x") == b"old"


def test_images_and_lists_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "a b#.jpg").write_bytes(b"0123456789")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        base = f"http://127.0.0.1:{server.server_port}"
        try:
            assert read_image_file(f"{base}/a%20b%23.jpg") == b"0123456789"
            assert read_image_file(f"{base}/a%20b%23.jpg?token=1", max_bytes=10) == b"0123456789"
            found = [code_of(f"{base}/a%20b%23.jpg", 9), code_of(f"{base}/b?token=SECRET")]
        finally:
            server.shutdown()
    found.append(code_of(f"{base}/gone.jpg"))
    assert [code for code, _ in found] == ["too_large", "not_found", "storage_error"]
    assert "SECRET" not in str(found)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def code_of(uri: str, max_bytes: int = 0) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        read_image_file(uri, max_bytes)
    return str(caught.value.code), caught.value.message


def test_readers_never_see_a_part(tmp_path: Path) -> None:
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
