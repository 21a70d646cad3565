"""Markers of shards: paths, torn files, and whether the files they name are intact."""

import json
import os
from pathlib import Path

import pytest

from pipeline.run import markers
from pipeline.storage.folder import Folder
from schemas.records import FileEntry, ShardDone, ShardFailed, ShardTally

TABLES = {"images": b"1", "scores": b"22", "annotations": b"333"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path))


def make_marker(folder: Folder) -> ShardDone:
    """Write one file per table and return a marker that names them."""
    files = {}
    for name, data in TABLES.items():
        file = f"{name}/00007-x.parquet"
        folder.atomic_write(file, data)
        digest = markers.bytes_sha256(data)
        files[name] = FileEntry(name=file, num_rows=1, sha256=digest, size_bytes=len(data))
    tally = ShardTally(num_images=1, num_segments=1)
    return ShardDone(
        schema_version=1, shard=7, attempt="a", fingerprint="f", files=files, tally=tally
    )


def test_marker_round_trip(folder: Folder) -> None:
    marker = make_marker(folder)
    folder.atomic_write(markers.marker_path("done", 7), markers.marker_json(marker))
    assert folder.list("done") == ["done/00007.json"]
    assert markers.read_marker(folder, "done", 7, ShardDone) == marker
    assert markers.read_markers(folder, "done", ShardDone) == {7: marker}
    assert markers.read_marker(folder, "done", 8, ShardDone) is None


def test_markers_are_in_order_and_torn_or_foreign_files_are_left_out(folder: Folder) -> None:
    for shard in (123456, 2, 10):
        failed = ShardFailed(shard=shard, attempts=1, message="x")
        folder.atomic_write(markers.marker_path("failed", shard), markers.marker_json(failed))
    folder.atomic_write("failed/00011.json", b'{"shard"')
    folder.atomic_write("failed/README.txt", b"x")
    assert markers.marked_shards(folder, "failed") == [2, 10, 11, 123456]
    assert list(markers.read_markers(folder, "failed", ShardFailed)) == [2, 10, 123456]


def test_intact_marker_is_of_the_run_and_its_files_are_the_same_bytes(folder: Folder) -> None:
    marker = make_marker(folder)
    assert markers.is_intact(folder, marker, "f")
    assert not markers.is_intact(folder, marker, "another run")
    folder.atomic_write("scores/00007-x.parquet", b"2?")
    assert not markers.is_intact(folder, marker, "f")
    folder.delete("scores/00007-x.parquet")
    assert not markers.is_intact(folder, marker, "f")


LIES = {
    "images": ("it says 10", {"tally": {"num_images": 10**12}}),
    "segments": ("segments", {"tally": {"num_segments": 10**12}}),
    "failures": ("failed", {"tally": {"errors": {"truncated": 2}}}),
    "frames": ("frames", {"tally": {"num_multi_frame": 2}}),
    "seconds": ("finite", {"tally": {"seconds": {"wall": float("inf")}}}),
    "a wait": ("finite", {"tally": {"seconds": {"wait_images": 1e300}}}),
    "bytes": ("bytes", {"files": {"scores": {"size_bytes": 2**41}}}),
}


def _changed(value: dict, changes: dict) -> dict:
    return {
        **value,
        **{
            k: _changed(value[k], c) if isinstance(c, dict) and k in value else c
            for k, c in changes.items()
        },
    }


@pytest.mark.parametrize(("words", "changes"), LIES.values(), ids=LIES)
def test_marker_with_numbers_that_cannot_be_does_not_count_and_is_told_once(
    folder: Folder, words: str, changes: dict, caplog: pytest.LogCaptureFixture
) -> None:
    lying = _changed(make_marker(folder).model_dump(), changes)
    folder.atomic_write(markers.marker_path("done", 7), json.dumps(lying).encode())
    for _ in range(3):
        assert markers.read_markers(folder, "done", ShardDone) == {}
    (message,) = caplog.messages
    assert message.startswith(f"{folder.uri}/done/00007.json does not count: ")
    assert words in message


def test_a_file_that_has_grown_is_not_read_to_see_whether_it_is_intact(folder: Folder) -> None:
    marker = make_marker(folder)
    os.truncate(f"{folder.uri}/scores/00007-x.parquet", 2**41)
    assert not markers.is_intact(folder, marker, "f")
