"""Packed files of tools: ZIP archives and gzip, damaged ones, and bombs."""

import gzip
import io
import zipfile

import numpy as np
import pytest

from pipeline.importers.shared.archives import unpack
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


def test_unpack_gzip():
    assert unpack(gzip.compress(b"content"), ".json") == b"content"
    files = {"a.json": b"content"}
    assert unpack(gzip.compress(bytes(packed(files))), ".json") == b"content"
    with pytest.raises(UserError, match="gzip"):
        unpack(gzip.compress(b"content" * 99)[:-9], ".json")
