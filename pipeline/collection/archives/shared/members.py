"""What a kind of archive says of its members, and how it says that it cannot be read."""

import re
from collections.abc import Callable
from typing import NamedTuple

from pipeline.storage import uris
from schemas.errors import CollectionError, ErrorCode, ImageError
from schemas.redact import redact
from schemas.untrusted import is_relative_path

ReadPart = Callable[[int, int], bytes]
"""(first byte, number of bytes) -> a part of the archive, fewer bytes where it ends.

Those that are equal read the same file by the same rule."""
LEAVES = "member with a name that leaves its archive"
SPECIAL = "link, pipe or device in an archive"
ENCRYPTED = "encrypted member of an archive"
PACKED_OTHERWISE = "member of a zip archive that is not deflated (bzip2, LZMA ...)"
REST = "archive that is damaged or cut off, from there on"
_SLASHES = re.compile("/{2,}")


class ArchiveError(CollectionError):
    """A file that cannot be read as an archive."""


class Member(NamedTuple):
    """One member of an archive."""

    name: str
    """Path in the archive, as text."""
    first: int
    second: int
    """Where it lies, as its kind counts."""
    size_bytes: int | None
    """Unpacked; None: not known."""
    version: str
    """Changes with the content; empty: not known."""
    why_not: str = ""
    """Why it is no image that can be taken, for the counts; empty: its name decides."""
    is_image: bool = False
    """Whatever the ending of its name."""


def clean_name(name: str) -> str | None:
    """Return a member's name as a relative path, UTF-8; None: it would leave the archive."""
    text = name if uris.is_text(name) else uris.percent_escaped(name)
    text = _SLASHES.sub("/", text)
    while text.startswith("./"):
        text = text[2:]
    return text if is_relative_path(text) else None


def checked_size(size_bytes: int, max_bytes: int, member: uris.ArchiveMember) -> None:
    """Raise ImageError `too_large` for a member of more bytes; 0: no limit."""
    if max_bytes and size_bytes > max_bytes:
        message = (
            f"{redact(member.uri)} has {size_bytes} bytes, more than image.max_bytes = {max_bytes}"
        )
        raise ImageError(ErrorCode.TOO_LARGE, message)


def cut_off(member: uris.ArchiveMember) -> ImageError:
    """Return the error for a member that reaches beyond the end of its archive."""
    return ImageError(
        ErrorCode.TRUNCATED,
        f"{redact(member.uri)}: the archive ends before this member does: it was cut off, or its "
        "header states a wrong size; copy or pack it again",
    )


def replaced(member: uris.ArchiveMember) -> ImageError:
    """Return the error for an archive that has something else at the member's place."""
    return ImageError(
        ErrorCode.NOT_FOUND,
        f"{redact(member.uri)}: the archive has something else at this place: it was changed since "
        "it was listed; the same command with --update lists it again",
    )
