"""Remote stores: clients, credentials, HTTP."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.storage.folder import Folder, read_image_file
from schemas.errors import ImageError, UserError
from tests.helpers.places import ANYWHERE
from tests.helpers.python_process import run_python


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


def test_a_missing_bucket_has_no_files_and_takes_none(s3_endpoint: str) -> None:
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


def test_image_files_are_read_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "a b#.jpg").write_bytes(b"0123456789")
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        base = f"http://127.0.0.1:{server.server_port}"
        try:
            assert read_image_file(f"{base}/a%20b%23.jpg", ANYWHERE) == b"0123456789"
            assert (
                read_image_file(f"{base}/a%20b%23.jpg?token=1", ANYWHERE, max_bytes=10)
                == b"0123456789"
            )
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
        read_image_file(uri, ANYWHERE, max_bytes)
    return str(caught.value.code), caught.value.message
