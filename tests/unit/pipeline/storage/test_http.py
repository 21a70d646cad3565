"""Images by HTTP: which addresses are called, and how much is read of them."""

import socket
from collections.abc import Iterator

import pytest

from pipeline.storage.folder import read_image_file
from pipeline.storage.places import ImagePlaces
from schemas.errors import ErrorCode, ImageError
from tests.helpers.calls_server import CallsServer, calls_server
from tests.helpers.places import ANYWHERE

PUBLIC_ONLY = ImagePlaces(roots=None)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[CallsServer]:
    with calls_server(image=b"0123456789") as found:
        yield found


def refused(uri: str, places: ImagePlaces, max_bytes: int = 100) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image_file(uri, places, max_bytes)
    return caught.value


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0",
        "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "LOCALHOST", "127.0.0.1.",
        "1２7.0.0.1", "a@127.0.0.1", "1.1.1.1@127.0.0.1",
    ],
)  # fmt: skip
def test_a_private_address_is_not_called_in_any_form(server: CallsServer, host: str) -> None:
    error = refused(f"http://{host}:{server.port}/image", PUBLIC_ONLY)
    assert error.code is ErrorCode.PERMISSION_DENIED
    assert "--allow-private-addresses" in error.message
    assert server.calls == []


def test_what_a_name_stands_for_counts(
    server: CallsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        assert host == "rebound.test"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = f"http://rebound.test:{server.port}/image"
    assert refused(url, PUBLIC_ONLY).code is ErrorCode.PERMISSION_DENIED
    assert server.calls == []
    assert read_image_file(url, ANYWHERE) == b"0123456789"


def test_a_flag_or_the_collections_own_url_allows_it(server: CallsServer) -> None:
    own = ImagePlaces.of_own(f"{server.url}/photos", allow_private=False)
    assert read_image_file(f"{server.url}/image", own) == b"0123456789"
    assert read_image_file(f"{server.url}/image", ANYWHERE) == b"0123456789"
    assert server.calls == ["GET /image"] * 2


def test_redirects_are_judged_like_the_first_address(server: CallsServer) -> None:
    with calls_server(image=b"secret") as inner:
        server.answers |= {
            "/near": "/image",
            "/away": f"{inner.url}/image",
            "/name": f"http://localhost:{inner.port}/image",
            "/file": "file:///etc/passwd",
            "/chain": "simplecache::http://h.test/",
            "/user": f"http://me:secret@127.0.0.1:{server.port}/image",
            "/loop": "/loop",
        }
        own = ImagePlaces.of_own(server.url, allow_private=False)
        assert read_image_file(f"{server.url}/near", own) == b"0123456789"
        for name in ("away", "name", "file", "chain", "user"):
            error = refused(f"{server.url}/{name}", own)
            assert error.code is ErrorCode.PERMISSION_DENIED, name
            assert "secret" not in str(error)
        assert refused(f"{server.url}/loop", own).code is ErrorCode.STORAGE_ERROR
        assert inner.calls == []
        assert read_image_file(f"{server.url}/away", ANYWHERE) == b"secret"


def test_a_proxy_is_not_asked_for_a_private_address(
    server: CallsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.answers["http://h.invalid/image"] = b"by proxy"
    assert read_image_file("http://h.invalid/image", PUBLIC_ONLY) == b"by proxy"
    for host in ("10.0.0.1", "localhost", "2130706433"):
        assert refused(f"http://{host}/image", PUBLIC_ONLY).code is ErrorCode.PERMISSION_DENIED
    assert server.calls == ["GET http://h.invalid/image"]


def test_no_more_is_read_than_the_limit(server: CallsServer) -> None:
    assert refused(f"{server.url}/image", ANYWHERE, 9).code is ErrorCode.TOO_LARGE
    assert read_image_file(f"{server.url}/image", ANYWHERE, 10) == b"0123456789"
    assert refused(f"{server.url}/gone", ANYWHERE).code is ErrorCode.NOT_FOUND
