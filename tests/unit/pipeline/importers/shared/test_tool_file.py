import io
import zipfile

import numpy as np
import pytest

from pipeline.importers.shared.tool_file import (
    check_name,
    parse_json,
    polygon_pixels,
    read_entry,
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
        (KeyError("id"), "image 7 cannot be read: 'id' is missing"),
        (ValueError("too large"), "image 7 cannot be read: too large"),
        (TypeError("int"), r"image 7 cannot be read: unexpected structure \(int\)"),
    ],
)
def test_read_entry_error_names_the_entry(error, message):
    def read():
        raise error

    with pytest.raises(UserError, match=message):
        read_entry(read, "image 7")


def test_polygon_pixels_fills_the_polygon():
    filled = polygon_pixels(np.array([[0, 0], [3, 0], [3, 2], [0, 2]], float), (4, 6))
    assert filled[:2, :3].all()
    assert filled.sum() == 6
    with pytest.raises(ValueError, match="three corners or more"):
        polygon_pixels(np.zeros((2, 2)), (4, 6))
