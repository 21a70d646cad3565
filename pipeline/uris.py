"""Where bytes are, as text: local paths and URLs. No input or output happens here.

A string with `scheme://` in front is a URL, everything else a local path, so that names with `#`,
`%`, `?` or spaces mean themselves. `file://` is a local path too and is not percent-decoded.
"""

import os
import re
from pathlib import Path

from schemas.errors import ConfigError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/@\s]*:[^/@\s]*@")
_QUERY = re.compile(r"(https?://[^\s?'\"]*\?)[^\s'\"]+")


def scheme(uri: str) -> str:
    """Return the lower-case scheme, or "" for a local path (`file://` and `local://` included)."""
    match = _SCHEME.match(uri)
    name = match[1].lower() if match else ""
    return "" if name in ("file", "local") else name


def redact(text: str) -> str:
    """Return the text with passwords and signed queries in URLs blotted out."""
    return _QUERY.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


def normalise(uri: str) -> str:
    """Return an absolute local path, or the URL without slashes at its end.

    A leading `~` or `~/` is the home folder; write `./~name` for a name that begins so.

    Raises:
        ConfigError: for an empty text or a URL that holds a password.
    """
    if not uri.strip():
        raise ConfigError("expected a path or URL, got an empty text")
    if _PASSWORD.match(uri):
        raise ConfigError(
            f"{redact(uri)} holds a password; write the URL without it: credentials come from "
            "the environment only"
        )
    if scheme(uri):
        head, rest = uri.split("://", 1)
        return f"{head.lower()}://{rest.rstrip('/')}"
    match = _SCHEME.match(uri)
    path = uri[match.end() :] if match else uri
    if path == "~" or path.startswith("~/"):
        path = str(Path(path).expanduser())
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links


def join(folder: str, *names: str) -> str:
    """Return the URI of a name under a normalised folder URI."""
    for name in names:
        if name:
            folder = f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"
    return folder


def parent_and_name(uri: str) -> tuple[str, str]:
    """Cut a normalised URI at its last slash."""
    folder, _, name = uri.rpartition("/")
    if folder.endswith(":/"):  # memory://name: the folder is the scheme's root
        folder += "/"
    return folder or "/", name


def check_relative(path: str) -> str:
    """Return the path if it is relative, uses `/` and stays inside its folder.

    Raises:
        ValueError: otherwise.
    """
    parts = path.split("/")
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"expected a relative path without empty, `.` or `..` parts, got {path!r}")
    return path
