"""Zip archives, stored or deflated. A member's place is its local header and its packed bytes.

Only the directory at the end is read to list one, by Python's `zipfile`.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator

from pipeline.collection.archives.shared.members import (
    ENCRYPTED,
    LEAVES,
    PACKED_OTHERWISE,
    SPECIAL,
    ArchiveError,
    Member,
    ReadPart,
    checked_size,
    clean_name,
    cut_off,
    replaced,
)
from pipeline.collection.archives.shared.range_file import RangeFile
from pipeline.storage.http import ByteRange
from pipeline.storage.uris import ArchiveMember
from schemas.errors import ErrorCode, ImageError
from schemas.redact import redact

ENDINGS = (".zip",)

_HEADER = struct.Struct("<4s5H3I2H")
"""Of a member: mark, version, flags, method, time, date, CRC, packed and whole size, two lengths.

APPNOTE.TXT of PKWARE, 4.3.7.
"""
_MARK = b"PK\3\4"
_NAMES_BYTES = 1 << 10
"""Of the name and what follows it; more is read by another request."""
_ENCRYPTED, _SIZES_FOLLOW = 1, 8
_UNIX_KIND, _REGULAR = 0o170000, (0, 0o100000)
_MAX_DIRECTORY_BYTES = 1 << 30


def members(file: RangeFile) -> Iterator[Member]:
    """Yield the members in the directory's order.

    Raises:
        ArchiveError: it is no zip archive, or is cut off: the directory is at its end.
    """
    file.max_bytes = _MAX_DIRECTORY_BYTES
    try:
        archive = zipfile.ZipFile(file)  # type: ignore[arg-type]
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise ArchiveError(
            f"{redact(file.uri)} cannot be read as a zip archive: {error}; it is cut off, or none"
        ) from error
    for info in archive.infolist():
        if not info.is_dir():
            yield _member(info)


def _member(info: zipfile.ZipInfo) -> Member:
    name = clean_name(info.filename)
    why_not = "" if name else LEAVES
    if (info.external_attr >> 16) & _UNIX_KIND not in _REGULAR:
        why_not = SPECIAL
    elif info.flag_bits & _ENCRYPTED:
        why_not = ENCRYPTED
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        why_not = PACKED_OTHERWISE
    return Member(
        name or ascii(info.filename)[1:-1],
        info.header_offset,
        info.compress_size,
        info.file_size,
        f"{info.CRC:08x}@{info.header_offset}",
        why_not,
    )


def span(member: ArchiveMember) -> ByteRange:
    """Return a member's packed bytes with the header before them."""
    return ByteRange(member.first, _HEADER.size + _NAMES_BYTES + member.second)


def content(member: ArchiveMember, read: ReadPart, max_bytes: int) -> bytes:
    """Return a member's bytes, unpacked.

    Raises:
        ImageError: `too_large`; `not_found`: there is another member now; `truncated`;
            `undecodable`: it does not unpack to what the archive says.
    """
    checked_size(member.second, max_bytes, member)
    data = read(*span(member))
    if len(data) < _HEADER.size:
        raise replaced(member)
    mark, _, flags, method, _, _, crc, _, size, *lengths = _HEADER.unpack_from(data)
    begin = _HEADER.size + sum(lengths)
    if mark != _MARK or not _is_of(data[_HEADER.size :][: lengths[0]], member):
        raise replaced(member)
    packed = data[begin : begin + member.second]
    if len(packed) < member.second:
        packed = read(member.first + begin, member.second)
    if len(packed) < member.second:
        raise cut_off(member)
    whole = _unpacked(packed, method, max_bytes, member)
    if not flags & _SIZES_FOLLOW and (zlib.crc32(whole) != crc or len(whole) != size):
        raise ImageError(
            ErrorCode.UNDECODABLE,
            f"{redact(member.uri)}: the bytes are not those that the archive's checksum says: it "
            "is damaged; copy or pack it again",
        )
    return whole


def _is_of(name: bytes, member: ArchiveMember) -> bool:
    """Return whether a header's name is the member's, as far as both are ASCII."""
    if not name.isascii() or not member.name.isascii():
        return True
    return clean_name(zipfile.ZipInfo(name.decode()).filename) == member.name


def _unpacked(data: bytes, method: int, max_bytes: int, member: ArchiveMember) -> bytes:
    if method == zipfile.ZIP_STORED:
        return data
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = inflate.decompress(data, max_bytes + 1 if max_bytes else 0)
    except zlib.error as error:
        raise ImageError(
            ErrorCode.UNDECODABLE, f"{redact(member.uri)} cannot be unpacked: {error}"
        ) from error
    checked_size(len(whole), max_bytes, member)
    if not inflate.eof:
        raise cut_off(member)
    return whole
