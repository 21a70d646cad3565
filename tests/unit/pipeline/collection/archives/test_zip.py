"""Zip archives as people and programs make them, whole and broken."""

import io
import shutil
import struct
import zipfile
from pathlib import Path

import pytest

from pipeline.collection.collect import collect
from pipeline.collection.image_source import read_bytes
from pipeline.collection.left_out import left_out_of
from pipeline.collection.read_ahead import ReadAhead
from schemas.config import ImageConfig
from schemas.errors import CollectionError, ErrorCode, ImageError
from schemas.records import ImageRef
from schemas.tables import to_records
from tests.helpers.packed_images import drawn, serving_files, zip_bytes
from tests.helpers.places import ANYWHERE

CONFIG = ImageConfig()
IMAGES = {"a.png": drawn(1), "b/c d #1.png": drawn(2), "b/ü.png": drawn(3)}


def listed(place: Path | str) -> tuple[dict[str, ImageRef], dict[str, int]]:
    """Return the images by path, and the counts of what was left out."""
    table = collect(str(place), CONFIG)
    refs = {ref.path: ref for ref in to_records("manifest", table)}
    return refs, {one.what: one.count for one in left_out_of(table)}


def listed_of(folder: Path, data: bytes) -> tuple[dict[str, ImageRef], dict[str, int]]:
    (folder / "x.zip").write_bytes(data)
    return listed(folder / "x.zip")


def error_of(ref: ImageRef, max_bytes: int = 10**6) -> ErrorCode:
    with pytest.raises(ImageError) as caught:
        read_bytes(ref, max_bytes, ANYWHERE)
    return caught.value.code


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_stored_and_deflated_members_are_read(tmp_path: Path, method: int) -> None:
    refs, left_out = listed_of(tmp_path, zip_bytes(IMAGES, method))
    assert {path: read_bytes(ref, 10**6, ANYWHERE) for path, ref in refs.items()} == IMAGES
    assert {path: ref.size_bytes for path, ref in refs.items()} == {
        path: len(data) for path, data in IMAGES.items()
    }
    assert not left_out


def test_what_python_packs_of_a_folder_is_read(tmp_path: Path) -> None:
    for name, data in IMAGES.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "photos")
    refs, left_out = listed(tmp_path / "x.zip")
    unpacked = collect(str(tmp_path / "photos"), CONFIG)
    assert sorted(refs) == unpacked["path"].to_pylist() == sorted(IMAGES)
    assert [refs[path].image_id for path in sorted(refs)] == unpacked["image_id"].to_pylist()
    assert not left_out


def test_what_a_stream_has_packed_is_read(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # sizes stand after the bytes
        for name, data in IMAGES.items():
            archive.writestr(name, data)
    refs, _ = listed_of(tmp_path, bytes(pipe.data))
    assert {path: read_bytes(ref, 10**6, ANYWHERE) for path, ref in refs.items()} == IMAGES


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.png", "../b.png", "/c.png", "__MACOSX/._a.png", "d.txt", "folder/"):
            archive.writestr(name, drawn(1))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("lzma.png", drawn(1), zipfile.ZIP_LZMA)
        archive.writestr("secret.png", drawn(1))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.rfind(b"PK\1\2") + 8] |= 1  # of the last one: encrypted
    refs, left_out = listed_of(tmp_path, bytes(data))
    assert list(refs) == ["a.png"]
    assert left_out == {
        "member with a name that leaves its archive": 2,
        "by image.exclude": 1,
        ".txt": 1,
        "link, pipe or device in an archive": 1,
        "encrypted member of an archive": 1,
        "member of a zip archive that is not deflated (bzip2, LZMA ...)": 1,
    }


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", drawn(1))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", drawn(2))
    refs, left_out = listed(tmp_path / "x.zip")
    assert read_bytes(refs["a.png"], 0, ANYWHERE) == drawn(2)
    assert left_out == {"member that a later one of the same name replaces": 1}


def test_a_member_that_unpacks_to_more_than_allowed_is_an_error_row(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a.png": bytes(10**7)}))
    for mark, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):  # it says that it has 9 bytes
        at = data.find(mark) + place
        data[at : at + 4] = struct.pack("<I", 9)
    refs, _ = listed_of(tmp_path, bytes(data))
    assert refs["a.png"].size_bytes == 9
    assert error_of(refs["a.png"]) is ErrorCode.TOO_LARGE


def test_damaged_bytes_are_an_error_row(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a.png": drawn(1), "b.png": drawn(2)}, zipfile.ZIP_STORED))
    refs, _ = listed_of(tmp_path, bytes(data))
    data[100] ^= 1
    (tmp_path / "x.zip").write_bytes(data)
    assert error_of(refs["a.png"]) is ErrorCode.UNDECODABLE
    assert read_bytes(refs["b.png"], 0, ANYWHERE) == drawn(2)
    (tmp_path / "x.zip").write_bytes(zip_bytes({"0.png": drawn(3)}) + bytes(data))
    assert error_of(refs["a.png"]) is ErrorCode.NOT_FOUND
    (tmp_path / "x.zip").write_bytes(data[:90])
    assert error_of(refs["a.png"]) is ErrorCode.TRUNCATED


@pytest.mark.parametrize("content", [zip_bytes(IMAGES)[:-40], b"PK\3\4 and no more", b""])
def test_a_zip_that_is_cut_off_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(CollectionError, match=r"cannot be read as a zip archive.*cut off, or none"):
        collect(str(tmp_path / "x.zip"), CONFIG)


def test_a_zip_at_a_web_address_is_listed_by_its_end(tmp_path: Path) -> None:
    images = {f"{number:03d}.png": drawn(number) + bytes(9000) for number in range(90)}
    (tmp_path / "x.zip").write_bytes(zip_bytes(images, zipfile.ZIP_STORED))
    with serving_files(tmp_path) as served:
        table = collect(f"{served.url}/x.zip", CONFIG)
        assert all(served.ranges)
        assert len(served.ranges) < 6
        refs = list(to_records("manifest", table))
        ahead = ReadAhead(ANYWHERE)
        ahead.expect(refs)
        served.ranges.clear()
        assert {ref.path: ahead.read_bytes(ref, 10**6) for ref in refs} == images
        assert len(served.ranges) <= 2
