"""A tool's file as bytes: itself, unpacked by gzip, or the one member of a ZIP archive."""

import gzip
import io
import zipfile
import zlib

from schemas.errors import UserError

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Errors from reading a ZIP that is damaged, truncated, encrypted or compressed in another way."""
READ_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others unpack without a limit."""
_MAX_UNPACKED_BYTES, _MAX_RATIO = 1 << 26, 100
"""A member beyond both is refused as a ZIP bomb; reviews shrink to a fifth or a tenth."""
GZIP = b"\x1f\x8b"
_SHOWN_CHARACTERS = 80


def unpack(data: bytes, suffix: str) -> bytes:
    """Return a file itself; unpacked by gzip; or of a ZIP archive its only member with a suffix.

    Raises:
        UserError: a damaged archive, or one without or with several such members.
    """
    if data.startswith(GZIP):
        data = _gunzip(data)
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_member(archive, _only_member(archive, suffix))
    except ZIP_ERRORS as error:
        raise UserError(
            f"the archive is damaged, or compressed in a way that cannot be read: {error}; unpack "
            "it and give the file"
        ) from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return a member's content, and no more of it in memory than its entry states."""
    if member.compress_type not in READ_COMPRESSIONS:
        raise NotImplementedError("neither stored nor deflated")
    with archive.open(member) as file:
        return file.read(member.file_size)


def _gunzip(data: bytes) -> bytes:
    most = max(_MAX_UNPACKED_BYTES, _MAX_RATIO * len(data))
    try:
        with gzip.open(io.BytesIO(data)) as packed:
            content = packed.read(most + 1)
    except (OSError, zlib.error, EOFError) as error:
        raise UserError(
            f"the file begins as gzip does and is damaged: {error}; unpack it and give the file"
        ) from error
    if len(content) > most:
        raise UserError(
            f"the file would grow from {len(data)} to over {most} bytes, more than a review does: "
            "unpack it and give the file"
        )
    return content


def _only_member(archive: zipfile.ZipFile, suffix: str) -> zipfile.ZipInfo:
    members = [
        member
        for member in archive.infolist()
        # macOS adds a second file for every one.
        if member.filename.lower().endswith(suffix) and not member.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise UserError(
            f"expected one {suffix} file in the archive, got "
            f"{', '.join(map(_shown, members[:5])) or 'none'}: unpack it and "
            "give the file"
        )
    size, packed = members[0].file_size, members[0].compress_size
    if size > max(_MAX_UNPACKED_BYTES, _MAX_RATIO * packed):
        raise UserError(
            f"{_shown(members[0])} in the archive would grow from {packed} to {size} bytes, more "
            "than a review does: unpack it and give the file"
        )
    return members[0]


def _shown(member: zipfile.ZipInfo) -> str:
    return member.filename[:_SHOWN_CHARACTERS]
