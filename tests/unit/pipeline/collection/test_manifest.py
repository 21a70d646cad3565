"""The frozen list and its cut."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.collection import manifest
from pipeline.storage.parquet import write_table
from schemas.errors import RunFolderError
from schemas.records import ImageRef
from schemas.tables import MANIFEST, to_table


def refs(count: int) -> list[ImageRef]:
    return [
        ImageRef(
            image_id=f"{index:016x}",
            path=f"a/ü {index:06d}.jpg",
            uri=f"s3://b/a/ü {index:06d}.jpg",
            size_bytes=index if index % 2 else None,
            etag="e" * (index % 3),
        )
        for index in range(count)
    ]


def test_a_frozen_manifest_comes_back_whole() -> None:
    table = to_table("manifest", refs(7))
    data = manifest.write_manifest(table, source='{"images": "ü"}')
    loaded = manifest.read_manifest(data)
    assert loaded.equals(table)
    assert loaded.schema.equals(MANIFEST)
    assert manifest.source_of(loaded) == '{"images": "ü"}'
    assert manifest.write_manifest(table, source='{"images": "ü"}') == data


def test_packed_rows_are_written_as_their_table_is() -> None:
    count = 150_000
    numbers = np.arange(count).astype(str)
    columns = [pa.array(numbers.astype(object), pa.string())] * 3
    sizes = pa.array([None if place % 5 == 0 else place for place in range(count)], pa.int64())
    table = pa.Table.from_arrays([*columns, sizes, columns[0]], schema=MANIFEST)
    packed = manifest.PackedRows.of(table.replace_schema_metadata({"a": "b"}))
    assert packed.num_rows == count
    assert packed.table().equals(table)
    assert packed.table().schema.metadata == {b"a": b"b"}
    of_table = manifest.write_manifest(packed.table(), source="x")
    assert manifest.write_manifest(packed, source="x") == of_table
    assert manifest.with_source(packed, "x").equals(table)
    assert (packed.num_rows, list(packed.batches())) == (0, [])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [([], True), (["b"], True), (["a", "b"], True), (["b", "a"], False), (["a", "a"], False)],
)
def test_one_text_ascends(texts: list[str], expected: bool) -> None:
    column = pa.chunked_array([texts], pa.string())
    assert manifest.ascends(column) is expected
    assert manifest.has_repeats(column) is (len(set(texts)) < len(texts))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"nonsense" * 99])
def test_damaged_bytes_are_a_run_folder_error(data: bytes) -> None:
    with pytest.raises(RunFolderError, match=r"manifest\.parquet"):
        manifest.read_manifest(data)


def test_a_table_of_other_columns_is_a_run_folder_error() -> None:
    with pytest.raises(RunFolderError, match=r"manifest\.parquet"):
        manifest.read_manifest(write_table(pa.table({"x": [1]}), 10))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": "../../etc/passwd"}, "leaves the collection's folder"),
        ({"path": "x\\..\\y"}, "leaves the collection's folder"),
        ({"image_id": "0" * 16}, "repeat the image_id"),
        ({"path": None}, "null values"),
    ],
)
def test_rows_that_no_listing_makes_are_a_run_folder_error(
    changed: dict[str, str | None], message: str
) -> None:
    rows = to_table("manifest", refs(3)).to_pylist()
    rows[1] |= changed
    schema = pa.schema([field.with_nullable(True) for field in MANIFEST])
    data = write_table(pa.Table.from_pylist(rows, schema))
    with pytest.raises(RunFolderError, match=message):
        manifest.read_manifest(data)


def test_shards_hold_every_image_once_in_order() -> None:
    shards = manifest.Shards(to_table("manifest", refs(10)), manifest.shard_bounds((10, 4)))
    assert len(shards) == 3
    assert [len(shard.refs) for shard in shards] == [4, 4, 2]
    assert [shard.index for shard in shards] == [0, 1, 2]
    assert [ref for shard in shards for ref in shard.refs] == refs(10)
    assert shards[-1] == shards[2]
    assert shards[1:] == [shards[1], shards[2]]
    with pytest.raises(IndexError):
        shards[3]
    with pytest.raises(ValueError, match="at least 1"):
        manifest.shard_bounds((10, 0))
    assert list(manifest.Shards(to_table("manifest", []), manifest.shard_bounds((0, 4)))) == []


def test_no_shard_is_of_two_lists_and_images_that_are_left_out_are_in_none() -> None:
    bounds = manifest.shard_bounds((5, 4), (0, 4), (3, 2))
    assert bounds.tolist() == [0, 4, 5, 7, 8]
    left_out = np.array([False, True, False, False, True, False, False, False])
    shards = manifest.Shards(to_table("manifest", refs(8)), bounds, left_out)
    places = [[refs(8).index(ref) for ref in shard.refs] for shard in shards]
    assert places == [[0, 2, 3], [], [5, 6], [7]]


def test_a_large_manifest_is_cut_without_making_its_records() -> None:
    count = 200_000
    rows = {
        "image_id": [f"{index:016x}" for index in range(count)],
        "path": [f"{index}.jpg" for index in range(count)],
        "uri": [f"/x/{index}.jpg" for index in range(count)],
        "size_bytes": [None] * count,
        "etag": [""] * count,
    }
    loaded = manifest.read_manifest(
        manifest.write_manifest(pa.Table.from_pydict(rows, schema=MANIFEST))
    )
    shards = manifest.Shards(loaded, manifest.shard_bounds((count, 256)))
    assert len(shards) == 782
    assert [ref.path for ref in shards[700].refs[:2]] == ["179200.jpg", "179201.jpg"]
    assert len(shards[781].refs) == count - 781 * 256
