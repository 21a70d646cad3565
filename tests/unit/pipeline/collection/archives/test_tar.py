"""Tar archives as people and programs make them, whole and broken."""

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipeline.collection.collect import collect
from pipeline.collection.image_source import read_bytes
from pipeline.collection.left_out import left_out_of
from schemas.config import ImageConfig
from schemas.errors import CollectionError, ErrorCode, ImageError
from schemas.records import ImageRef
from schemas.tables import to_records
from tests.helpers.packed_images import drawn, samples_of, tar_bytes
from tests.helpers.places import ANYWHERE

CONFIG = ImageConfig()
BLOCK = 512


def listed(place: Path) -> tuple[dict[str, ImageRef], dict[str, int]]:
    """Return the images by path, and the counts of what was left out."""
    table = collect(str(place), CONFIG)
    refs = {ref.path: ref for ref in to_records("manifest", table)}
    return refs, {one.what: one.count for one in left_out_of(table)}


def error_of(ref: ImageRef, max_bytes: int = 10**6) -> ErrorCode:
    with pytest.raises(ImageError) as caught:
        read_bytes(ref, max_bytes, ANYWHERE)
    return caught.value.code


LONG = f"{'long/' * 30}name.png"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_kind_of_header_is_read(tmp_path: Path, kind: int) -> None:
    names = ["a.png", "./b/c d #1.png", "e/ü.png", LONG]
    images = {name: drawn(place) for place, name in enumerate(names)}
    (tmp_path / "x.tar").write_bytes(tar_bytes(images, format=kind))
    refs, _ = listed(tmp_path / "x.tar")
    assert sorted(refs) == sorted(["a.png", "b/c d #1.png", "e/ü.png", LONG])
    for name, data in images.items():
        ref = refs[name.removeprefix("./")]
        assert (ref.size_bytes, read_bytes(ref, 10**6, ANYWHERE)) == (len(data), data)


def test_what_the_systems_tar_packs_is_read(tmp_path: Path) -> None:
    for name in ("photos/a.png", "photos/sub/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(drawn(len(name)))
    subprocess.run(["tar", "cf", "x.tar", "-C", "photos", "."], cwd=tmp_path, check=True)
    refs, left_out = listed(tmp_path / "x.tar")
    assert sorted(refs) == ["a.png", "sub/b.png"]
    assert not left_out  # its folders are not counted
    assert read_bytes(refs["sub/b.png"], 0, ANYWHERE) == drawn(len("photos/sub/b.png"))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        names = ["a.png", "../b.png", "/c.png", "d/../../e.png", "f.json", ".g.png", "C:/h.png"]
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(drawn(1))
            archive.addfile(info, io.BytesIO(drawn(1)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            archive.addfile(special(f"{kind.decode()}.png", kind, "/etc/passwd"))
        archive.addfile(special("folder", tarfile.DIRTYPE))
    refs, left_out = listed(tmp_path / "x.tar")
    assert list(refs) == ["a.png"]
    assert left_out == {
        "member with a name that leaves its archive": 4,
        "link, pipe or device in an archive": 4,
        ".json": 1,
        "hidden or in a run folder": 1,
    }


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path) -> None:
    first, second = (
        tar_bytes({"a.png": drawn(1), "b.png": drawn(2)}),
        tar_bytes({"a.png": drawn(3)}),
    )
    end = first.rstrip(b"\0")
    end += bytes(-len(end) % BLOCK)
    (tmp_path / "x.tar").write_bytes(end + second)
    refs, left_out = listed(tmp_path / "x.tar")
    assert read_bytes(refs["a.png"], 0, ANYWHERE) == drawn(3)
    assert sorted(refs) == ["a.png", "b.png"]
    assert left_out == {"member that a later one of the same name replaces": 1}


@pytest.mark.parametrize("where", ["in a header", "in an image", "between members"])
def test_an_archive_that_is_cut_off_gives_what_is_whole(tmp_path: Path, where: str) -> None:
    whole = tar_bytes({f"{place}.png": drawn(place) for place in range(4)})
    (tmp_path / "x.tar").write_bytes(whole)
    last = int(listed(tmp_path / "x.tar")[0]["3.png"].uri.partition("=")[2].partition("+")[0])
    end = {"in a header": last - 100, "in an image": last + 9, "between members": last - BLOCK}
    (tmp_path / "x.tar").write_bytes(whole[: end[where]])
    refs, left_out = listed(tmp_path / "x.tar")
    assert left_out == {"archive that is damaged or cut off, from there on": 1}
    assert sorted(refs)[:3] == ["0.png", "1.png", "2.png"]
    assert read_bytes(refs["2.png"], 0, ANYWHERE) == drawn(2)
    if where == "in an image":
        assert error_of(refs["3.png"]) is ErrorCode.TRUNCATED
    else:
        assert len(refs) == 3


@pytest.mark.parametrize("size", [1, 10**11])
def test_a_member_that_lies_about_its_size_is_found(tmp_path: Path, size: int) -> None:
    whole = bytearray(tar_bytes({f"{place}.png": drawn(place) for place in range(3)}))
    refs, _ = listed_of(tmp_path, whole)
    begin = int(refs["1.png"].uri.partition("=")[2].partition("+")[0]) - BLOCK
    info = tarfile.TarInfo("1.png")
    info.size = size
    whole[begin : begin + BLOCK] = info.tobuf(tarfile.GNU_FORMAT)
    refs, left_out = listed_of(tmp_path, whole)
    assert sorted(refs) == ["0.png", "1.png"]
    assert left_out == {"archive that is damaged or cut off, from there on": 1}
    assert error_of(refs["1.png"]) is ErrorCode.TOO_LARGE if size > 1 else ErrorCode.NOT_AN_IMAGE


def listed_of(folder: Path, data: bytes | bytearray) -> tuple[dict[str, ImageRef], dict[str, int]]:
    (folder / "x.tar").write_bytes(data)
    return listed(folder / "x.tar")


def test_an_archive_that_was_changed_since_gives_no_other_image(tmp_path: Path) -> None:
    refs, _ = listed_of(tmp_path, tar_bytes({"a.png": drawn(1), "b.png": drawn(2)}))
    (tmp_path / "x.tar").write_bytes(tar_bytes({"0.png": drawn(3), "a.png": drawn(1)}))
    assert error_of(refs["a.png"]) is ErrorCode.NOT_FOUND
    (tmp_path / "x.tar").write_bytes(tar_bytes({}))
    assert error_of(refs["b.png"]) is ErrorCode.NOT_FOUND
    (tmp_path / "x.tar").unlink()
    assert error_of(refs["b.png"]) is ErrorCode.NOT_FOUND


def test_a_member_with_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    refs, _ = listed_of(tmp_path, tar_bytes({"a.png": drawn(1), "b.png": b""}))
    assert error_of(refs["a.png"], max_bytes=9) is ErrorCode.TOO_LARGE
    assert error_of(refs["b.png"]) is ErrorCode.EMPTY_FILE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(tar_bytes({"a.png": drawn(1)}), mtime=0), "packed by gzip.*unpack it"),
        (b"<html>not found</html>" * 99, "cannot be read as a tar archive"),
        (b"", "cannot be read as a tar archive: empty file"),
        (tar_bytes({}), "no images in .*x.tar: it is empty"),
        (tar_bytes({"a.txt": b"1"}), "no images in .*x.tar: left out: 1 .txt file"),
    ],
)
def test_an_archive_without_images_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(CollectionError, match=message):
        collect(str(tmp_path / "x.tar"), CONFIG)


def test_a_forged_header_takes_no_memory(tmp_path: Path) -> None:
    info = special("x", tarfile.XHDTYPE)
    info.size = 1 << 40
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(tar_bytes({"a.png": drawn(1)}).rstrip(b"\0"))
        file.write(bytes(-file.tell() % BLOCK) + info.tobuf(tarfile.GNU_FORMAT))
        file.truncate((1 << 40) + (1 << 20))
    refs, left_out = listed(tmp_path / "x.tar")
    assert list(refs) == ["a.png"]
    assert left_out == {"archive that is damaged or cut off, from there on": 1}


def test_members_of_webdataset_are_images_with_what_belongs_to_them(tmp_path: Path) -> None:
    refs, left_out = listed_of(tmp_path, tar_bytes(samples_of(0, 3)))
    assert sorted(refs) == ["0000.png", "0001.png", "0002.png"]
    assert left_out == {".cls": 3, ".txt": 3}


@pytest.mark.parametrize("size", [10**18, 2**63, 2**70])
def test_a_member_of_an_impossible_size_is_counted(tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo("b.png")
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT)
    num_bytes = 512 * (1 - -len(drawn(1)) // 512)  # without the zeros at the end
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.png": drawn(1)})[:num_bytes] + header)
    refs, left_out = listed(tmp_path / "x.tar")
    assert list(refs) == ["a.png"]
    assert left_out["member of an archive with an impossible size"] == 1
