"""From what is found to rows: in blocks of any size, each path and id once, names that are odd."""

import random

import pyarrow as pa
import pytest

from pipeline.collection import rows
from pipeline.collection.list_file import ListedImage
from pipeline.collection.manifest import PackedRows
from pipeline.collection.rows import Listing
from pipeline.storage import uris
from schemas.errors import CollectionError


def listing_of(paths: list[str], block: int) -> Listing:
    """Return a listing that was told of so many images at once."""
    listing = Listing()
    for begin in range(0, len(paths), block):
        files = [(path, len(path), f"e{len(path)}") for path in paths[begin : begin + block]]
        for batch in rows.pack_files(files).batches():
            listing.add_files(batch, "s3://b/x")
    return listing


def paths_of(packed: PackedRows) -> list[str]:
    return packed.table()["path"].to_pylist()


@pytest.mark.parametrize("block", [1, 7, 500, 10_000])
@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("limit", [0, 1, 333, 5000])
def test_rows_do_not_depend_on_the_blocks(block: int, is_sorted: bool, limit: int) -> None:
    paths = [f"{number // 10:03d}/{number:04d}.jpg" for number in range(1000)]
    told = paths if is_sorted else random.Random(0).sample(paths, len(paths))
    once = rows.each_once(listing_of(told, block).rows(), "s3://b/x")
    table = rows.with_ids(once, limit).table()
    expected = paths[:limit] if limit else paths
    assert table["path"].to_pylist() == expected
    assert table["uri"].to_pylist() == [f"s3://b/x/{path}" for path in expected]
    assert table["etag"].to_pylist() == [f"e{len(path)}" for path in expected]
    assert table["size_bytes"].to_pylist() == [len(path) for path in expected]
    assert table["image_id"].to_pylist() == [rows.image_id(path) for path in expected]


def test_all_blocks_but_the_last_have_the_same_number_of_rows() -> None:
    paths = [f"{number:06d}" for number in range(200_000)]
    packed = rows.with_ids(listing_of(paths, 30_001).rows(), 140_000)
    assert [batch.num_rows for batch in packed.batches()] == [65536, 65536, 140_000 - 131_072]
    assert paths_of(packed) == paths[:140_000]


@pytest.mark.parametrize("block", [1, 2, 3])
def test_repeats_and_disorder_between_blocks_are_found(block: int) -> None:
    def listed(*named: tuple[str, str]) -> PackedRows:
        listing = Listing()
        for begin in range(0, len(named), block):
            columns = zip(*named[begin : begin + block], strict=True)
            listing.add_columns([pa.array(column, pa.string()) for column in columns])
        return listing.rows()

    one, two, three = ("a", "s3://b/a"), ("b", "s3://b/b"), ("c", "s3://b/c")
    assert paths_of(rows.each_once(listed(one, two, two, three), "x")) == ["a", "b", "c"]
    assert paths_of(rows.each_once(listed(one, three, two), "x")) == ["a", "b", "c"]
    with pytest.raises(CollectionError, match="gives the path 'b' to two files"):
        rows.each_once(listed(one, two, ("b", "s3://b/d"), three), "x")


def test_odd_names_get_forms_that_no_other_file_has() -> None:
    raw = {
        "caf\udce9.png": "caf%252525E9.png",  # the next two forms are taken
        "caf%E9.png": "caf%E9.png",
        "caf%25E9.png": "caf%25E9.png",
        "caf%2525E9.png": "caf%2525E9.png",
        "a//b.png": "a/%2Fb.png",
        "/c.png": "%2Fc.png",
        "d//e%.png": "d/%2Fe%.png",
    }
    for block in (1, 3, 99):
        table = rows.each_once(listing_of(list(raw), block).rows(), "x").table()
        assert sorted(table["path"].to_pylist()) == sorted(raw.values())
        found = dict(zip(table["path"].to_pylist(), table["uri"].to_pylist(), strict=True))
        assert found == {path: uris.as_text(f"s3://b/x/{name}") for name, path in raw.items()}


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(CollectionError, match="no file can have the name"):
        rows.pack_files([("\ud800.png", 1, "")])
    with pytest.raises(CollectionError, match="no file can have the name"):
        Listing().add([ListedImage("\ud800.png", "s3://b/a", 1, "")])
