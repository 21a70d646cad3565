"""Paths and URLs as text."""

from pathlib import Path

import pytest

from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas.errors import ConfigError


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b/", "/a/b"),
        ("/a/./b//c/../d", "/a/b/d"),
        ("file:///a/b%20c#d", "/a/b c#d"),
        ("file://localhost/a%25b", "/a%b"),
        ("FILE:///a", "/a"),
        ("s3://bucket/a//b/", "s3://bucket/a//b"),
        ("S3://Bucket", "s3://Bucket"),
        ("memory://", "memory://"),
        ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
        ("file+bytes:///a/caf%E9", "/a/caf\udce9"),
    ],
)
def test_normalise(uri: str, expected: str) -> None:
    assert uris.normalise(uri) == expected
    assert uris.normalise(expected) == expected


def test_normalise_makes_relative_and_home_paths_absolute(
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


def test_a_place_beside_a_folder_is_never_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run/exports").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    typed = {
        "../run/": "../run-2",
        "pets": "pets-2",
        "s3://bucket/a/": "s3://bucket/a-2",
        ".": f"{tmp_path}/run-2",
        "./": f"{tmp_path}/run-2",
        "exports/..": f"{tmp_path}/run-2",
        f"{tmp_path}/run/.": f"{tmp_path}/run-2",
        "..": f"{tmp_path}-2",
    }
    assert {folder: uris.beside(folder, "-2") for folder in typed} == typed


@pytest.mark.parametrize("uri", ["/a/\0b", "s3://bucket/\0", "file:///a%00b", "/a/\ud83d"])
def test_normalise_refuses_what_no_name_holds(uri: str) -> None:
    with pytest.raises(ConfigError, match="no name has such characters"):
        uris.normalise(uri)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/x", "s3"),
        ("ABFS://box@account/x", "abfs"),
        ("/a/b", ""),
        ("file:///a", ""),
        ("file+bytes:///a", ""),
        ("a:b", ""),
    ],
)
def test_scheme(uri: str, expected: str) -> None:
    assert uris.scheme(uri) == expected


@pytest.mark.parametrize(
    ("folder", "names", "expected"),
    [
        ("/a", ("b", "c.jpg"), "/a/b/c.jpg"),
        ("/", ("b",), "/b"),
        ("memory://", ("b",), "memory://b"),
        ("s3://bucket", ("", "b"), "s3://bucket/b"),
    ],
)
def test_join(folder: str, names: tuple[str, ...], expected: str) -> None:
    assert uris.join(folder, *names) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b/c.jpg", ("/a/b", "c.jpg")),
        ("/c.jpg", ("/", "c.jpg")),
        ("memory://c.jpg", ("memory://", "c.jpg")),
        ("https://h/x?sig=a/b", ("https://h", "x?sig=a/b")),
    ],
)
def test_parent_and_name_give_back_the_uri(uri: str, expected: tuple[str, str]) -> None:
    assert uris.parent_and_name(uri) == expected
    assert uris.join(*expected) == uri


def test_as_text_can_be_stored_and_normalised_again() -> None:
    name = "/a/100% caf\udce9"
    assert not uris.is_text(name)
    text = uris.as_text(name)
    assert text == "file+bytes:///a/100%25 caf%E9"
    assert uris.normalise(text) == name
    assert uris.as_text("/a/100%") == "/a/100%"


@pytest.mark.parametrize(
    ("uri", "plain", "expected"),
    [
        (
            "https://h/a/list.csv?sig=b/c#d",
            "https://h/a/list.csv",
            ("https://h/a", "list.csv?sig=b/c#d"),
        ),
        ("s3://b/a/what?.png", "s3://b/a/what?.png", ("s3://b/a", "what?.png")),
        ("/data/a?b/c#d.png", "/data/a?b/c#d.png", ("/data/a?b", "c#d.png")),
    ],
)
def test_a_query_belongs_to_the_name_of_http_urls_only(
    uri: str, plain: str, expected: tuple[str, str]
) -> None:
    assert uris.without_query(uri) == plain
    assert uris.parent_and_name(uri) == expected
