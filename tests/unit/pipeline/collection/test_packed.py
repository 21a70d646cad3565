"""Archives as collections: alone, in folders and buckets, at web addresses, and moved."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipeline.collection.changes import changes
from pipeline.collection.collect import collect
from pipeline.collection.image_source import read_bytes
from pipeline.collection.left_out import describe, left_out_of
from pipeline.collection.packed import moved_to
from pipeline.storage.folder import Folder
from pipeline.storage.places import ImagePlaces
from schemas.config import ImageConfig
from schemas.errors import CollectionError, ErrorCode, ImageError
from schemas.tables import to_records
from tests.helpers.packed_images import drawn, samples_of, serving_files, tar_bytes
from tests.helpers.places import ANYWHERE

CONFIG = ImageConfig()
SHARDS = {"a/000.tar": (0, 3), "a/001.tar": (3, 2), "b.tar": (5, 3)}
FOUND = {
    f"{tar}/{number:04d}.png": number
    for tar, (first, count) in SHARDS.items()
    for number in range(first, first + count)
}


def contents(table: pa.Table) -> dict[str, bytes]:
    refs = to_records("manifest", table)
    return {ref.path: read_bytes(ref, 10**6, ANYWHERE) for ref in refs}


@pytest.fixture(params=["local", "memory", "s3"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URI of a folder of tar shards."""
    places = {"local": str(tmp_path / "my shards"), "memory": f"memory://{tmp_path.name}/shards"}
    uri = places.get(request.param) or request.getfixturevalue("s3_folder")
    for name, part in SHARDS.items():
        Folder(uri).atomic_write(name, tar_bytes(samples_of(*part)))
    return uri


def test_a_folder_of_shards_is_read_in_place(shards: str) -> None:
    table = collect(shards, CONFIG)
    assert contents(table) == {path: drawn(number) for path, number in FOUND.items()}
    assert describe(left_out_of(table)).startswith("left out: 8 .cls files, 8 .txt files")


def test_a_glob_and_one_archive_are_read_in_place(shards: str) -> None:
    table = collect(f"{shards}/a/*.tar", CONFIG)
    assert table["path"].to_pylist() == [path[2:] for path in FOUND if path.startswith("a/")]
    one = collect(f"{shards}/b.tar", CONFIG)
    assert contents(one) == {f"{number:04d}.png": drawn(number) for number in (5, 6, 7)}


def test_a_limit_lists_only_the_first_archives(shards: str) -> None:
    Folder(shards).atomic_write("z.tar", b"never looked at" * 99)
    for number in range(20):
        Folder(shards).atomic_write(f"c/{number:02}.tar", tar_bytes(samples_of(number, 1)))
    table = collect(shards, CONFIG.model_copy(update={"limit": 4}))
    assert table["path"].to_pylist() == sorted(FOUND)[:4]
    assert not any("archive" in one.what for one in left_out_of(table))


def test_archives_beside_images_are_left_out_and_said(shards: str) -> None:
    Folder(shards).atomic_write("photo.png", drawn(1))
    table = collect(shards, CONFIG)
    assert table["path"].to_pylist() == ["photo.png"]
    text = describe(left_out_of(table))
    assert "3 .tar files (archives are read where no images lie beside them: give them by a" in text
    assert collect(f"{shards}/**/*.tar", CONFIG).num_rows == len(FOUND)


def test_an_archive_that_cannot_be_read_stops_no_other(
    shards: str, caplog: pytest.LogCaptureFixture
) -> None:
    Folder(shards).atomic_write("broken.tar", b"no archive" * 99)
    table = collect(shards, CONFIG)
    assert contents(table) == {path: drawn(number) for path, number in FOUND.items()}
    assert "1 archive that cannot be read" in describe(left_out_of(table))
    assert "broken.tar cannot be read as a tar archive" in caplog.text


def test_new_changed_and_vanished_members_are_found(shards: str) -> None:
    before = collect(shards, CONFIG)
    assert changes(before, collect(shards, CONFIG)).is_empty
    members = samples_of(5, 3)
    del members["0005.png"]
    Folder(shards).atomic_write("b.tar", tar_bytes(members | {"0009.png": drawn(9)}))
    found = changes(before, collect(shards, CONFIG))
    assert found.new["path"].to_pylist() == ["b.tar/0009.png"]
    assert found.vanished["path"].to_pylist() == ["b.tar/0005.png"]
    assert found.changed["path"].to_pylist() == ["b.tar/0006.png", "b.tar/0007.png"]


def test_an_archive_at_a_web_address_is_read_by_parts(tmp_path: Path) -> None:
    members = {f"{number:04d}.png": drawn(number) for number in range(200)}
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    with serving_files(tmp_path) as served:
        place = f"{served.url}/x.tar?key=1"
        table = collect(place, CONFIG)
        assert all(served.ranges)
        assert contents(table) == members
        refs = to_records("manifest", table)
        with pytest.raises(ImageError, match="private address") as caught:
            read_bytes(next(refs), 10**6, ImagePlaces(roots=None))
        assert caught.value.code is ErrorCode.PERMISSION_DENIED


def test_a_server_of_whole_files_only_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(samples_of(0, 2)))
    with (
        serving_files(tmp_path, gives_parts=False) as served,
        pytest.raises(CollectionError, match="whole files only"),
    ):
        collect(f"{served.url}/x.tar", CONFIG)


def test_a_member_may_be_read_where_its_archive_may(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.tar").write_bytes(tar_bytes(samples_of(0, 2)))
    (ref, _) = to_records("manifest", collect(f"{tmp_path}/x", CONFIG))
    for root in (f"{tmp_path}/x", f"{tmp_path}/x/a.tar"):
        assert read_bytes(ref, 0, ImagePlaces(roots=(root,))) == drawn(0)
    other = ref.model_copy(update={"uri": ref.uri.replace("/x/a.tar", "/x/../x/b/../a.tar")})
    for one, root in ((ref, f"{tmp_path}/y"), (other, f"{tmp_path}/x/b")):
        with pytest.raises(ImageError) as caught:
            read_bytes(one, 0, ImagePlaces(roots=(root,)))
        assert caught.value.code is ErrorCode.PERMISSION_DENIED
    (tmp_path / "x/a.tar").rename(tmp_path / "a.tar")
    (tmp_path / "x/a.tar").symlink_to(tmp_path / "a.tar")
    with pytest.raises(ImageError, match="is a link"):
        read_bytes(ref, 0, ImagePlaces(roots=(f"{tmp_path}/x",)))


@pytest.mark.parametrize("uri", ["#tar=0+99/a.png", "#tar=512+0/a.png", "#none=1+2/a.png"])
def test_a_reference_that_nothing_has_listed_is_an_error_row(tmp_path: Path, uri: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples_of(0, 2)))
    (ref, _) = to_records("manifest", collect(str(tmp_path), CONFIG))
    with pytest.raises(ImageError):
        read_bytes(ref.model_copy(update={"uri": f"{tmp_path}/a.tar{uri}"}), 10**6, ANYWHERE)


def test_an_archive_is_found_where_it_has_moved_to(shards: str, tmp_path: Path) -> None:
    moved = Folder(f"{tmp_path}/moved")
    for name, part in SHARDS.items():
        moved.atomic_write(name, tar_bytes(samples_of(*part)))
    for ref in to_records("manifest", collect(shards, CONFIG)):
        there = ref.model_copy(update={"uri": moved_to(ref, moved.uri)})
        assert there.uri.startswith(f"{moved.uri}/")
        assert read_bytes(there, 0, ANYWHERE) == drawn(FOUND[ref.path])
    (ref, *_) = to_records("manifest", collect(f"{shards}/b.tar", CONFIG))
    for root in (moved.uri, f"{moved.uri}/b.tar"):
        there = ref.model_copy(update={"uri": moved_to(ref, root)})
        assert read_bytes(there, 0, ANYWHERE) == drawn(5)


def test_a_name_that_reads_as_a_member_is_left_out(tmp_path: Path) -> None:
    Folder(str(tmp_path)).atomic_write("x.tar#tar=0+9/a.png", drawn(1))
    Folder(str(tmp_path)).atomic_write("a.png", drawn(1))
    table = collect(str(tmp_path), CONFIG)
    assert table["path"].to_pylist() == ["a.png"]
    assert "1 with a name that reads as a member" in describe(left_out_of(table))


def test_a_list_names_members_and_no_archives(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples_of(0, 3)))
    refs = list(to_records("manifest", collect(f"{tmp_path}/*.tar", CONFIG)))
    rows = [f"{ref.uri},{ref.path}" for ref in refs[1:]]
    (tmp_path / "some.csv").write_text("\n".join(["uri,path", *rows]))
    some = collect(f"{tmp_path}/some.csv", CONFIG)
    assert contents(some) == {ref.path: drawn(number) for number, ref in enumerate(refs) if number}
    assert set(some["image_id"].to_pylist()) == {ref.image_id for ref in refs[1:]}
    (tmp_path / "plain.txt").write_text("\n".join(ref.uri for ref in refs))
    assert collect(f"{tmp_path}/plain.txt", CONFIG)["path"].to_pylist() == [r.path for r in refs]
    (tmp_path / "tars.txt").write_text("a.tar\nb.tar\n")
    with pytest.raises(CollectionError, match=r"names archives.*a.tar.*their folder or a glob"):
        collect(f"{tmp_path}/tars.txt", CONFIG)


def test_an_archive_in_a_folder_without_a_name_is_read(s3_folder: str) -> None:
    store = fsspec.filesystem("s3")
    for key in ("day//a.tar", "day/b.tar"):
        store.pipe_file(f"{s3_folder}/{key}", tar_bytes(samples_of(0, 2)))
    table = collect(s3_folder, CONFIG)
    expected = {f"day/{tar}/{n:04d}.png": drawn(n) for tar in ("%2Fa.tar", "b.tar") for n in (0, 1)}
    assert contents(table) == expected
