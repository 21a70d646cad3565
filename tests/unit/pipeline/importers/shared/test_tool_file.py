"""What reading tools' files needs: archives, JSON, polygons, notes of unreadable entries."""

import gzip
import io
import math
import zipfile

import numpy as np
import pytest

from pipeline.importers.shared.notes import Note, NoteKind, Notes
from pipeline.importers.shared.tool_file import (
    check_name,
    frame_of_polygons,
    noted,
    parse_json,
    polygon_pixels,
    read_all,
    read_corners,
    unpack,
)
from schemas.errors import UserError


def packed(files: dict[str, bytes]) -> bytearray:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return bytearray(archive.getvalue())


def test_unpack_returns_a_file_or_the_member_with_the_suffix():
    assert unpack(b"plain", ".xml") == b"plain"
    files = {"readme.txt": b"x", "a/B.XML": b"content", "__MACOSX/a/._B.XML": b"y"}
    assert unpack(bytes(packed(files)), ".xml") == b"content"


@pytest.mark.parametrize("names", [[], ["a.xml", "b.xml"]])
def test_unpack_archive_without_the_file_or_with_two_is_refused(names):
    files = {"readme.txt": b"x"} | dict.fromkeys(names, b"<a/>")
    with pytest.raises(UserError, match=r"expected one \.xml"):
        unpack(bytes(packed(files)), ".xml")


def _damaged(data: bytearray) -> bytearray:
    data[60:200] = bytes(140)
    return data


def _with_password(data: bytearray) -> bytearray:
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return data


def _packed_unknown(data: bytearray) -> bytearray:
    data[8] = data[data.rindex(b"PK\x01\x02") + 10] = 99
    return data


@pytest.mark.parametrize("change", [_damaged, _with_password, _packed_unknown])
def test_unpack_unreadable_archive_is_refused(change):
    noise = np.random.default_rng(0).integers(32, 99, 4000).astype(np.uint8).tobytes()
    with pytest.raises(UserError, match="unpack it"):
        unpack(bytes(change(packed({"x.json": noise}))), ".json")


def test_unpack_zip_bomb_is_refused():
    data = packed({"x.json": bytes(1 << 12)})
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (0x7FFFFFFF).to_bytes(4, "little")  # its size, unpacked
    with pytest.raises(UserError, match="would grow"):
        unpack(bytes(data), ".json")


def test_check_name_takes_texts_and_numbers():
    assert [check_name(value) for value in ("cat", 7, "half \ud83d")] == ["cat", "7", "half ?"]
    with pytest.raises(ValueError, match=r"expected a name, got \['cat'\]"):
        check_name(["cat"])


def test_parse_json_other_content_is_refused():
    assert parse_json(b"[1]", list, "a list") == [1]
    for data, message in ((b"x", "not JSON"), (b"{}", "got a JSON dict"), (b"[" * 10**5, "JSON")):
        with pytest.raises(UserError, match=f"expected a list, .*{message}"):
            parse_json(data, list, "a list")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("id"), "image 7: 'id' is missing"),
        (ValueError("too large"), "image 7: too large"),
        (TypeError("int"), "image 7: unexpected structure (int)"),
    ],
)
def test_noted_error_names_the_entry(error, message):
    notes = Notes()
    with noted(notes, "image 7"):
        raise error
    assert notes.report()[NoteKind.UNREADABLE] == Note(count=1, first=(message,))


def test_read_all_names_what_is_wrong_with_all_entries():
    assert read_all(int, ["1", "2"]) == [1, 2]
    with pytest.raises(ValueError, match=r"'a'.*; .*'b'.*; .*'c'; and 2 more"):
        read_all(int, ["a", "1", "b", "c", "d", "e"])


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([1, 1, 5, 5], "2 corners"), ([[1, 1], [5, 5]], "2 corners"), ([1, 2, 3], "expected a"),
        (7, "expected a"), ([0, 0, 1, math.nan, 1, 1], "in numbers"), (["a"] * 6, "a"),
    ],
)  # fmt: skip
def test_polygon_that_encloses_nothing_is_refused(corners, message):
    with pytest.raises(ValueError, match=message):
        read_corners(corners)


def test_polygon_pixels_fills_all_polygons():
    polygons = [
        read_corners([0, 0, 3, 0, 3, 2, 0, 2]),
        read_corners([[4, 2], [6, 2], [6, 4], [4, 4]]),
    ]
    filled = polygon_pixels(polygons, (4, 6))
    assert filled[:2, :3].all()
    assert filled[2:, 4:].all()
    assert filled.sum() == 10


def test_polygons_tell_a_frame_of_exchanged_sides():
    def frame(*corners: float) -> tuple[int, int]:
        return frame_of_polygons([read_corners(corners)], (40, 30))

    assert frame_of_polygons([], (40, 30)) == (40, 30)
    assert frame(0, 0, 29, 0, 29, 39) == (40, 30)
    assert frame(-1, 0, 31.5, 0, 29, 41) == (40, 30)  # a little outside is usual
    assert frame(0, 0, 39, 0, 39, 29) == (30, 40)
    with pytest.raises(ValueError, match="to 60, 80 in an image of 30 x 40"):
        frame(0, 0, 60, 0, 60, 80)


def test_unpack_gzip():
    assert unpack(gzip.compress(b"content"), ".json") == b"content"
    files = {"a.json": b"content"}
    assert unpack(gzip.compress(bytes(packed(files))), ".json") == b"content"
    with pytest.raises(UserError, match="gzip"):
        unpack(gzip.compress(b"content" * 99)[:-9], ".json")
