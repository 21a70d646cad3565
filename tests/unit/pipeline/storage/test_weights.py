"""A weights name or URI becomes a local file, once."""

import gzip
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import disk_usage
from threading import Thread

import pytest

import tests.helpers.faulty_filesystem  # noqa: F401 - makes faulty:// known
from pipeline.storage import weights
from pipeline.storage.folder import Folder
from pipeline.storage.local import DOWNLOAD_LIMIT_ENV, DownloadLimit
from schemas.errors import ConfigError, StorageError, UserError, WeightsError
from tests.helpers.fault_plan import PLAN_ENV, Fault, fault_environment, operations

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(weights.CACHE_ENV, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def remote(tmp_path: Path) -> str:
    folder = Folder(f"faulty://{tmp_path}/remote")
    folder.atomic_write("vit b.safetensors", CONTENT)
    return f"{folder.uri}/vit b.safetensors"


@pytest.mark.parametrize(
    "name",
    ["embedded", "laion2b_s34b_b79k", "local-dir:/x/y", "vit_small_patch8_224.dino", "", "/w"],
)
def test_names_and_local_paths_pass_through(name: str) -> None:
    assert weights.resolve(name) == name


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.resolve("~/dino.pth") == f"{tmp_path}/dino.pth"


def test_file_urls_and_pins_of_local_files(tmp_path: Path) -> None:
    path = tmp_path / "w #1.pt"
    path.write_bytes(CONTENT)
    assert weights.resolve(f"file://{path}") == str(path)
    assert weights.resolve(f"{path}#sha256={DIGEST.upper()}") == str(path)
    with pytest.raises(WeightsError, match=f"has the SHA-256 {DIGEST}, expected 0000"):
        weights.resolve(f"{path}#sha256={'0' * 64}")
    with pytest.raises(WeightsError, match="64 hex digits"):
        weights.resolve(f"{path}#sha256=abc")
    with pytest.raises(WeightsError, match="no weights at"):
        weights.resolve(f"file://{path}x")


def test_a_url_is_fetched_once(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLAN_ENV, fault_environment(tmp_path / "plan", [Fault("read")])[PLAN_ENV])
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(weights.resolve, [remote] * 4))
    (path,) = found
    assert Path(path).read_bytes() == CONTENT
    assert Path(path).name.endswith("vit_b.safetensors")
    assert [name for name, _ in operations(tmp_path / "plan")] == ["read", "read"], (
        "one was retried"
    )
    assert weights.resolve(f"{remote}#sha256={DIGEST}") == path


def test_processes_share_the_cache(remote: str, tmp_path: Path) -> None:
    env = os.environ | fault_environment(tmp_path / "plan", [])
    code = "import sys; from pipeline.storage.weights import resolve; print(resolve(sys.argv[1]))"
    command = [sys.executable, "-c", code, remote]
    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE) for _ in range(3)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert [process.returncode for process in running] == [0, 0, 0]
    assert [name for name, _ in operations(tmp_path / "plan")] == ["read"]


def test_a_killed_download_is_started_anew(remote: str, tmp_path: Path, cache: Path) -> None:
    env = os.environ | fault_environment(
        tmp_path / "plan", [Fault("os.rename", "safetensors$", action="kill")]
    )
    code = "import sys; from pipeline.storage.weights import resolve; resolve(sys.argv[1])"
    assert (
        subprocess.run([sys.executable, "-c", code, remote], env=env, check=False).returncode == -9
    )
    assert not list(cache.glob("weights/*.safetensors"))
    assert Path(weights.resolve(remote)).read_bytes() == CONTENT


def test_a_wrong_pin_is_refused_and_a_new_one_fetches_again(remote: str) -> None:
    with pytest.raises(WeightsError, match="expected 1111"):
        weights.resolve(f"{remote}#sha256={'1' * 64}")
    assert Path(weights.resolve(f"{remote}#sha256={DIGEST}")).read_bytes() == CONTENT
    folder, name = remote.rsplit("/", 1)
    Folder(folder).atomic_write(name, b"new")
    assert Path(weights.resolve(remote)).read_bytes() == CONTENT, "the name alone is kept"
    pinned = f"{remote}#sha256={hashlib.sha256(b'new').hexdigest()}"
    assert Path(weights.resolve(pinned)).read_bytes() == b"new"


def test_what_cannot_be_fetched(remote: str, s3_endpoint: str) -> None:
    for uri in (f"{remote}x", "s3://no-such-bucket/w.pt", "quux://x/w.pt"):
        with pytest.raises(
            WeightsError, match=r"cannot fetch weights .*on another computer, copy it here"
        ) as caught:
            weights.resolve(uri)
        assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match=r"cannot fetch weights .*copy it here"):  # an outage
        weights.resolve("http://127.0.0.1:9/w.pt")
    with pytest.raises(ConfigError, match="environment only"):
        weights.resolve("https://me:secret@host/w.pt")


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(CONTENT)
    assert weights.weights_sha256(path) == DIGEST
    (note,) = cache.glob("sha256/*.json")
    made = (cache, note.parent)
    assert [folder.stat().st_mode & 0o777 for folder in made] == [0o700, 0o700]
    note.write_text(note.read_text().replace(DIGEST, "remembered"))
    assert weights.weights_sha256(path) == "remembered"
    os.utime(path, ns=(1, 1))
    assert weights.weights_sha256(path) == DIGEST
    note.write_text("{")
    assert weights.weights_sha256(path) == DIGEST
    with pytest.raises(WeightsError, match="no weights at"):
        weights.weights_sha256(tmp_path / "missing.pt")


def test_a_folder_has_a_hash_of_its_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "sub/w").write_bytes(CONTENT)
    assert weights.weights_sha256(tmp_path / "one") == weights.weights_sha256(tmp_path / "two")
    (tmp_path / "two/sub/w").rename(tmp_path / "two/sub/v")
    assert weights.weights_sha256(tmp_path / "one") != weights.weights_sha256(tmp_path / "two")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(weights.CACHE_ENV, str(tmp_path / "file"))
    assert weights.weights_sha256(tmp_path / "file") == hashlib.sha256(b"in the way").hexdigest()


@pytest.mark.parametrize("xdg", ["", "/xdg"])
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, xdg: str) -> None:
    monkeypatch.delenv(weights.CACHE_ENV)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = Path(xdg or tmp_path / ".cache") / "ovseg"
    assert weights.cache_folder() == expected


class _Endless(BaseHTTPRequestHandler):
    """A server that sends without end, and states no size or one that is a lie."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip" if "packed" in self.path else "identity")
        self.end_headers()
        packed = gzip.compress(bytes(1 << 26), 1)
        with suppress(ConnectionError):
            for _ in range(1 if "packed" in self.path else 10_000):
                self.wfile.write(packed if "packed" in self.path else bytes(1 << 16))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endless() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["endless.pt", "packed.pt"])
def test_a_server_that_sends_without_end_is_left_at_the_limit(
    name: str, endless: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DOWNLOAD_LIMIT_ENV, "0.02")
    with pytest.raises(WeightsError, match=r"more than 0.02 GB, the limit .* set OVSEG_MAX_DOWN"):
        weights.resolve(f"{endless}/{name}")
    assert [file.suffix for file in (cache / "weights").iterdir()] == [".lock"]


def test_a_file_that_says_it_is_too_large_is_not_fetched(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DOWNLOAD_LIMIT_ENV, "0.000006")
    with pytest.raises(WeightsError, match=r"more than 6e-06 GB"):
        weights.resolve(remote)
    monkeypatch.setenv(DOWNLOAD_LIMIT_ENV, "0.000008")
    assert Path(weights.resolve(remote)).read_bytes() == CONTENT
    monkeypatch.setenv(DOWNLOAD_LIMIT_ENV, "much")
    with pytest.raises(WeightsError, match=r"OVSEG_MAX_DOWNLOAD_GB: expected GB"):
        weights.resolve(f"{remote}2")


def test_a_file_for_which_the_disk_has_no_room_is_not_fetched(tmp_path: Path) -> None:
    limit = DownloadLimit("x.pt", tmp_path)
    free = disk_usage(tmp_path).free
    limit.check(min(free // 2, 10**10))
    with pytest.raises((OSError, UserError), match=r"No space left|more than 20 GB"):
        limit.check(free)
