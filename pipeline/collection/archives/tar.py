"""Tar archives that are not compressed, as WebDataset has them. A member's place is its bytes.

POSIX (ustar, pax) and GNU headers, by Python's `tarfile`; only headers are read to list one.
"""

import tarfile
from collections.abc import Iterator
from typing import Any

from pipeline.collection.archives.shared.members import (
    LEAVES,
    REST,
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
from schemas.redact import redact

ENDINGS = (".tar",)

_BLOCK = tarfile.BLOCKSIZE
_NAME_BYTES, _SIZE, _PREFIX = 100, slice(124, 136), 345
"""Where a header has a name, the size (octal, to 8 GB) and the beginning of a longer name."""
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def members(file: RangeFile) -> Iterator[Member]:
    """Yield the members in their order; of one that is cut off, those that are there.

    Raises:
        ArchiveError: it is no tar archive.
    """
    shown = redact(file.uri)
    head = file.part(0, 8)
    for mark, name in _PACKED.items():
        if head.startswith(mark):
            raise ArchiveError(
                f"{shown} is packed by {name}, so that no member can be read in place: unpack it "
                "to a plain .tar (images hardly become smaller by packing)"
            )
    rest, is_empty = b"", True
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
            while (info := archive.next()) is not None:
                _forget_members(archive)
                is_empty = False
                if not info.isdir():
                    yield _member(info, file.etag)
            rest = file.part(archive.offset, _BLOCK)
    except (tarfile.TarError, ValueError, OverflowError, ArchiveError) as error:
        if is_empty:
            raise ArchiveError(f"{shown} cannot be read as a tar archive: {error}") from error
    if len(rest) < _BLOCK or any(rest):  # an archive ends with blocks of zeros
        yield Member("", 0, 0, None, "", REST)


def _forget_members(archive: Any) -> None:
    archive.members = []  # it keeps them all otherwise


def _member(info: tarfile.TarInfo, etag: str) -> Member:
    name = clean_name(info.name)
    why_not = "" if name else LEAVES
    if not info.isfile() or info.issparse():
        why_not = SPECIAL
    version = f"{etag or format(int(info.mtime), 'x')}@{info.offset_data}"
    return Member(
        name or ascii(info.name)[1:-1], info.offset_data, info.size, info.size, version, why_not
    )


def span(member: ArchiveMember) -> ByteRange:
    """Return the bytes of a member with the header before them."""
    return ByteRange(max(0, member.first - _BLOCK), member.second + _BLOCK)


def content(member: ArchiveMember, read: ReadPart, max_bytes: int) -> bytes:
    """Return a member's bytes.

    Raises:
        ImageError: `too_large`; `not_found`: there is another member now; `truncated`.
    """
    checked_size(member.second, max_bytes, member)
    data = read(*span(member))
    if not _is_of(data[:_BLOCK], member):
        raise replaced(member)
    if len(data) < member.second + _BLOCK:
        raise cut_off(member)
    return data[_BLOCK:]


def _is_of(block: bytes, member: ArchiveMember) -> bool:
    """Return whether a header is the member's, as far as it alone says so.

    A name that is long or not ASCII may stand in headers before.
    """
    if len(block) < _BLOCK:
        return False
    name = block[:_NAME_BYTES]
    try:
        size = int(block[_SIZE].strip(b"\0 "), 8)
    except ValueError:
        return False
    is_whole = name.endswith(b"\0") and name.isascii() and not block[_PREFIX]
    return size == member.second and (
        not is_whole
        or not member.name.isascii()
        or clean_name(name.rstrip(b"\0").decode()) == member.name
    )
