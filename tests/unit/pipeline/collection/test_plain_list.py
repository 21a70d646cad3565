"""Lists read column by column, against the same lists read row by row."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.collection import plain_list
from pipeline.collection.collect import collect
from pipeline.collection.list_file import read_list
from schemas.config import ImageConfig
from schemas.errors import CollectionError

PARTS = (
    *("a", "b.jpg", "é.png", "日本 1.jpg", " x", "..", ".", "...", ".hidden", "", "~", "~c", "a~b"),
    *(
        "x?y=1",
        "x#y",
        "50%",
        "%2e%2e",
        "C:",
        "a\\b",
        "user:pw@h",
        "\t",
        "\x85",
        "\u3000",
        "&'\"[*]",
    ),
)
HEADS = ("", "/", "s3://bucket/", "s3://", "https://host/", "S3://b/", "gs://b/", "sftp://h/", "//")
names = st.builds(
    lambda head, parts: head + "/".join(parts),
    st.sampled_from(HEADS),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3),
)
PLAIN = ("s3://bucket/a/1.jpg", "/data/é.jpg", "day 1/b.jpg")


def outcome(file: Path) -> list[tuple[str, str]] | str:
    """Return paths and URIs of a list, or the end of the message that refuses it."""
    try:
        found = read_list(str(file))
    except CollectionError as error:
        return str(error).partition(": ")[2]
    if isinstance(found, list):
        return [(image.path, image.uri) for image in found]
    return list(zip(found["path"].to_pylist(), found["uri"].to_pylist(), strict=True))


def written(folder: Path, uris: list[str], paths: list[str] | None = None) -> dict[str, Path]:
    """Write one list in every kind that is read by column, and as JSON lines."""
    files = {kind: folder / f"list.{kind}" for kind in ("txt", "parquet", "jsonl")}
    files["txt"].write_text("".join(f"{uri}\n" for uri in uris), encoding="utf-8", newline="")
    columns = {"uri": uris} | ({"path": paths} if paths else {})
    pq.write_table(pa.table(columns), files["parquet"])
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    files["jsonl"].write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return files


@settings(max_examples=150, deadline=None)
@given(uris=st.lists(names, min_size=1, max_size=3))
def test_a_list_by_column_is_the_one_by_row(uris: list[str], tmp_path_factory) -> None:
    files = written(tmp_path_factory.mktemp("list", numbered=True), uris)
    assert outcome(files["parquet"]) == outcome(files["jsonl"])
    if all(uri.strip() for uri in uris):  # else a .txt skips it
        assert outcome(files["txt"]) == outcome(files["jsonl"])


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from(PLAIN), names), min_size=1, max_size=3))
def test_a_list_with_paths_by_column_is_the_one_by_row(rows, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("list", numbered=True)
    files = written(folder, [uri for uri, _ in rows], [path for _, path in rows])
    assert outcome(files["parquet"]) == outcome(files["jsonl"])


@pytest.mark.parametrize("uri", PLAIN)
def test_plain_names_are_read_by_column(tmp_path: Path, uri: str) -> None:
    files = written(tmp_path, [uri, f"{uri}2"])
    for kind in ("txt", "parquet"):
        assert isinstance(read_list(str(files[kind])), pa.Table)
        assert outcome(files[kind]) == outcome(files["jsonl"])


def test_lines_end_as_on_any_system(tmp_path: Path) -> None:
    for number, text in enumerate(
        ("a.jpg\nb.jpg", "\ufeffa.jpg\r\n\r\nb.jpg\r\n", "a.jpg\n\n\nb.jpg\n")
    ):
        file = tmp_path / f"{number}.txt"
        file.write_text(text, encoding="utf-8", newline="")
        assert isinstance(read_list(str(file)), pa.Table)
        assert [path for path, _ in outcome(file)] == ["a.jpg", "b.jpg"]


def test_a_line_with_another_control_character_is_not_plain() -> None:
    with pytest.raises(plain_list.NotPlainError):
        plain_list.read_plain(plain_list.lines(b"a.jpg\r\r\nb.jpg\n"), "/data")


def test_rows_out_of_order_and_repeated_are_sorted_and_taken_once(tmp_path: Path, caplog) -> None:
    uris = [f"s3://bucket/{place:05d}.jpg" for place in (3, 1, 2, 1, 3)]
    for file in written(tmp_path, uris).values():
        table = collect(str(file), ImageConfig())
        assert table["path"].to_pylist() == [f"bucket/{place:05d}.jpg" for place in (1, 2, 3)]
        assert table["size_bytes"].null_count == 3
    assert caplog.text.count("2 images are listed more than once") == 3


def test_two_addresses_of_one_path_are_refused(tmp_path: Path) -> None:
    for file in written(tmp_path, ["s3://bucket/a.jpg", "gs://bucket/a.jpg"]).values():
        with pytest.raises(
            CollectionError, match=r"'bucket/a.jpg' to two files, gs://.* and s3://"
        ):
            collect(str(file), ImageConfig())
