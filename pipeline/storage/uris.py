"""Local paths and URLs as text. No input or output happens here.

A string with `scheme://` in front is a URL, everything else a local path, so that names with `#`,
`%`, `?` or spaces mean themselves. `file://` is a local path too, percent-decoded (RFC 8089), as
`Path.as_uri()` writes it.
A local name may be any bytes; in a text that is not UTF-8 such bytes stand as Python's surrogates.
`file+bytes://` is ovseg's way to write such a name down.

A member of an archive is written `ARCHIVE#KIND=A+B/NAME`, for example
`s3://bucket/000.tar#tar=1536+20480/cat/1.jpg`: the two numbers say where in the archive it lies, as
its kind counts (of a tar: the first byte and the number of bytes). See `collection.archives`.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from schemas.errors import ConfigError
from schemas.redact import has_password, redact
from schemas.untrusted import is_relative_path

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_ODD_BYTES = re.compile("[%\udc80-\udcff]")
_LOCALHOST = re.compile("^localhost/")
_QUERY = re.compile("[?#]")
_IN_NO_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""NUL, and surrogates that stand for no byte."""
IN_ARCHIVE = r"#([a-z]+)=([0-9]{1,18})\+([0-9]{1,18})/"
"""What stands between an archive's own URI and the name of its member; no file that is listed has
it in its name, so that each URI has one meaning."""
_MEMBER = re.compile(IN_ARCHIVE)
_BYTES = "file+bytes"
LOCAL_URLS = ("file://", "local://", f"{_BYTES}://")
"""Beginnings of URLs that are local paths."""


class ArchiveMember(NamedTuple):
    """A member of an archive, as its URI says it."""

    archive: str
    """URI of the archive."""
    kind: str
    """File name of its plug-in in `collection.archives`."""
    first: int
    second: int
    name: str
    """Path in the archive."""

    @property
    def uri(self) -> str:
        """What `member_of` reads again."""
        return f"{self.archive}#{self.kind}={self.first}+{self.second}/{self.name}"


def member_of(uri: str) -> ArchiveMember | None:
    """Return the member of an archive that a URI names; None: it names a file."""
    found = _MEMBER.search(uri) if "#" in uri else None
    if found is None:
        return None
    archive, name = uri[: found.start()], uri[found.end() :]
    return ArchiveMember(archive, found[1], int(found[2]), int(found[3]), name)


def holding_file(uri: str) -> str:
    """Return the URI of the file that holds an image: of a member that of its archive."""
    member = member_of(uri)
    return uri if member is None else member.archive


def scheme(uri: str) -> str:
    """Return the lower-case scheme; "" for a local path, as a plain path or one of `LOCAL_URLS`."""
    match = _SCHEME.match(uri)
    name = match[1].lower() if match else ""
    return "" if f"{name}://" in LOCAL_URLS else name


def store(uri: str) -> str:
    """Return scheme and bucket or host of a URL, `s3://bucket`; "" for a local path."""
    return uri.split("/", 3)[0] + "//" + uri.split("/", 3)[2] if scheme(uri) else ""


def normalise(uri: str) -> str:
    """Return an absolute local path, or the URL without slashes at its end.

    A leading `~` or `~/` is the home folder; write `./~name` for a name that begins so.

    Raises:
        ConfigError: for an empty text, one with characters of no name, or a URL that holds a
            password.
    """
    if not uri.strip():
        raise ConfigError("expected a path or URL, got an empty text")
    if has_password(uri):
        raise ConfigError(
            f"{redact(uri)} holds a password; write the URL without it: credentials come from "
            "the environment only"
        )
    if _IN_NO_NAME.search(uri) or ("%00" in uri and uri.startswith(LOCAL_URLS)):
        raise ConfigError(f"expected a path or URL, got {uri!a}: no name has such characters")
    if scheme(uri):
        head, rest = uri.split("://", 1)
        return f"{head.lower()}://{rest.rstrip('/')}"
    match = _SCHEME.match(uri)
    path = uri[match.end() :] if match else uri
    if match and match[1].lower() in ("file", _BYTES):
        path = os.fsdecode(unquote_to_bytes(_LOCALHOST.sub("/", path)))
    if path == "~" or path.startswith("~/"):
        path = str(Path(path).expanduser())
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links


def is_text(name: str) -> bool:
    """Return whether a name is UTF-8, so that it can be stored and sent."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def percent_escaped(name: str) -> str:
    """Return a name with each byte that is not UTF-8, and `%`, as `%` and two hex digits."""
    return _ODD_BYTES.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)


def as_text(uri: str) -> str:
    """Return a normalised URI as UTF-8: a local path that is not becomes `file+bytes://`."""
    return uri if is_text(uri) else f"{_BYTES}://{percent_escaped(uri)}"


def without_query(uri: str) -> str:
    """Return a URL of http(s) without query and fragment; in other URIs these may be a name's."""
    return _QUERY.split(uri, maxsplit=1)[0] if scheme(uri) in ("http", "https") else uri


def join(folder: str, *names: str) -> str:
    """Return the URI of a name under a normalised folder URI."""
    for name in names:
        if name:
            folder = f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"
    return folder


def beside(folder: str, ending: str) -> str:
    """Return a place beside a folder: its path or URL as it was typed, its name with an ending.

    `.` and `..` are no names: such a path becomes absolute first.
    """
    plain = folder.rstrip("/")
    if not scheme(folder) and plain.rpartition("/")[2] in (".", ".."):
        plain = normalise(plain)
    return f"{plain}{ending}"


def parent_and_name(uri: str) -> tuple[str, str]:
    """Split a normalised URI at its last slash; the name keeps a query of http(s)."""
    place = without_query(uri)
    folder, _, name = place.rpartition("/")
    name += uri[len(place) :]
    if folder.endswith(":/"):  # memory://name: the folder is the scheme's root
        folder += "/"
    return folder or "/", name


def check_relative(path: str) -> str:
    """Return the path if it is relative and stays inside its folder, see `is_relative_path`.

    Raises:
        ValueError: otherwise.
    """
    if not is_relative_path(path):
        raise ValueError(f"expected a relative path without empty, `.` or `..` parts, got {path!r}")
    return path
