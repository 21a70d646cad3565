"""From where images may be read, and which addresses are private."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import uris
from pipeline.storage.places import (
    ImagePlaces,
    hosts_of,
    is_address,
    is_below,
    is_private,
    outside,
    root_of,
)
from schemas.errors import ConfigError, ErrorCode, ImageError

PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254",
    "100.100.100.200", "192.0.0.192", "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::",
    "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2130706433", "0x7f000001", "0177.0.0.1", "127.1",
    "::127.0.0.1", "fec0::1", "64:ff9b:1::1", "2001::1", "", "localhost",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_in_every_form(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"]
)
def test_public_addresses(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize("host", ["1.1.1.1", "127.1", "2130706433", "::1", "0177.0.0.1"])
def test_hosts_that_are_called_without_a_look_up(host: str) -> None:
    assert is_address(host)
    assert not is_address("h.test")


ROOTS = ["/data/photos", "s3://bucket/photos", "https://h.test/photos", "http://h.test"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/photos/a.png", True),
        ("/data/photos", True),
        ("/data/photos2/a.png", False),
        ("/data/photos/../a.png", False),
        ("/data/photos/sub/../a.png", True),
        ("/etc/passwd", False),
        ("file:///etc/passwd", False),
        ("file:///data/photos/a%20b.png", True),
        ("file:///data/photos/%2e%2e/a.png", False),
        ("file+bytes:///data/photos/caf%E9.png", True),
        ("local:///etc/passwd", False),
        ("~/.ssh/id_rsa", False),
        ("s3://bucket/photos/100%.png", True),
        ("s3://bucket/photos2/a.png", False),
        ("s3://bucket2/photos/a.png", False),
        ("s3a://bucket/photos/a.png", False),
        ("s3://bucket/photos/../a.png", False),
        ("https://h.test/photos/a.png?x=1", True),
        ("HTTPS://h.test/photos/a.png", True),
        ("https://h.test/other/a.png", False),
        ("https://h.test/photos/../a.png", False),
        ("https://h.test/photos/%2E%2e/a.png", False),
        ("https://h.test/photos/.%2e%2fa.png", False),
        ("https://h.test/photos/%252e%252e/a.png", False),
        ("https://h.test/photos\\..\\a.png", False),
        ("https://h.test/photos/..?a.png", False),
        ("https://h.test:8443/photos/a.png", False),
        ("https://h.test@evil.test/photos/a.png", False),
        ("https://evil.test/https://h.test/photos/a.png", False),
        ("http://h.test/a.png", True),
        ("http://h.test.evil.test/a.png", False),
        ("http://h.test:80@evil.test/a.png", False),
        ("http://h.test", True),
        ("simplecache::http://h.test/a.png", False),
        ("filecache::s3://bucket/photos/a.png", False),
        ("zip://a.png::http://h.test/a.zip", False),
        ("memory://photos/a.png", False),
        ("ftp://h.test/a.png", False),
        ("data:image/png;base64,AAAA", False),
        ("", False),
    ],
)
def test_what_is_below_roots(uri: str, expected: bool) -> None:
    assert outside(pa.chunked_array([["/data/photos/x", uri]]), ROOTS) == (
        [] if expected else [uri]
    )
    places = ImagePlaces(tuple(ROOTS), follows_links=True)
    try:
        place = uris.normalise(uri)
    except ConfigError:
        assert not expected
        return
    if expected:
        assert places.checked(place) == place
    else:
        with pytest.raises(ImageError, match="--images-root") as caught:
            places.checked(place)
        assert caught.value.code is ErrorCode.PERMISSION_DENIED


@given(st.lists(st.sampled_from(["photos", "..", ".", "a", "%2e%2e", "\\", "?", "", "%25", "b:"])))
def test_a_column_is_judged_as_each_of_its_places(parts: list[str]) -> None:
    for head in ("/data", "s3://bucket", "http://h.test", "https://h.test/photos"):
        uri = "/".join([head, *parts])
        is_fine = is_below(uris.normalise(uri), ROOTS)
        assert outside(pa.chunked_array([[uri]]), ROOTS) == ([] if is_fine else [uri])


def test_nothing_is_confirmed_by_default(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a root that was confirmed"):
        ImagePlaces().checked(str(tmp_path))
    assert not ImagePlaces().may_call("h.test", 80)


def test_links_that_lead_out_are_not_followed_for_a_stranger(tmp_path: Path) -> None:
    photos, outer = tmp_path / "photos", tmp_path / "outer"
    for folder in (photos / "sub", outer):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(b"a")
    (photos / "in.png").symlink_to(photos / "sub/a.png")
    (photos / "out.png").symlink_to(outer / "a.png")
    (photos / "folder").symlink_to(outer)
    (tmp_path / "root").symlink_to(photos)
    for root in ("photos", "root"):  # the root itself may be a link
        places = ImagePlaces((f"{tmp_path}/{root}",))
        assert places.checked(f"{tmp_path}/{root}/in.png") == str(photos / "sub/a.png")
        for name in ("out.png", "folder/a.png"):
            with pytest.raises(ImageError, match="is a link to"):
                places.checked(f"{tmp_path}/{root}/{name}")
    own = ImagePlaces.of_own(str(photos), allow_private=False)
    assert own.checked(f"{photos}/out.png") == f"{photos}/out.png"


def test_a_typed_url_may_be_private_but_not_its_neighbours() -> None:
    places = ImagePlaces.of_own("http://127.0.0.1:8000/photos", allow_private=False)
    assert places.may_call("127.0.0.1", 8000)
    assert not places.may_call("127.0.0.1", 8001)
    assert not places.may_call("localhost", 8000)
    assert hosts_of(["https://H.test/x", "http://h.test", "/data", "s3://b"]) == {
        "h.test:443",
        "h.test:80",
    }
    with pytest.raises(ConfigError, match="not a web address"):
        hosts_of(["http://h.test:port/"])


def test_root_of_a_glob_is_its_folder(tmp_path: Path) -> None:
    (tmp_path / "set [2020]").mkdir()
    assert root_of(f"{tmp_path}/set [2020]/") == f"{tmp_path}/set [2020]"
    assert root_of(f"{tmp_path}/*/[ab]*.png") == str(tmp_path)
    assert root_of("s3://bucket/photos/**/a?.png") == "s3://bucket/photos"
    assert root_of("https://h.test/a.php?id=1") == "https://h.test/a.php?id=1"
    assert root_of("/data/a.png") == "/data/a.png"
