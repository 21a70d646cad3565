"""Resolve a weights name or URI to a local file, fetched once per node.

What is fetched is only ever stored and hashed here, never loaded or run. `#sha256=<64 hex digits>`
at a URI's end pins its content.
"""

import hashlib
import json
import os
import re
import secrets
from pathlib import Path

from filelock import FileLock

from pipeline.storage import folder, uris
from schemas.errors import StorageError, UserError, WeightsError
from schemas.redact import redact

CACHE_ENV = "OVSEG_CACHE"
"""Environment variable: the folder in which fetched weights are kept."""

_PIN = re.compile(r"^(.*)#sha256=([0-9a-fA-F]{64})$")


def cache_folder() -> Path:
    """Return where this user's fetched files are kept: $OVSEG_CACHE, else the XDG cache folder."""
    if os.environ.get(CACHE_ENV):
        return Path(os.environ[CACHE_ENV])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ovseg"


def resolve(uri: str) -> str:
    """Return the local path of weights, fetching them if need be.

    Args:
        uri: a local path, `file://` or any fsspec URL of one file, with an optional `#sha256=`;
            any other text (an open_clip tag, a timm name, `embedded`, `local-dir:...`) is
            returned as it is.

    Raises:
        WeightsError: the file does not exist, cannot be fetched or has another SHA-256.
    """
    pinned = _PIN.match(uri)
    place, digest = (pinned[1], pinned[2].lower()) if pinned else (uri, "")
    if "#sha256=" in uri and not pinned:
        raise WeightsError(f"{redact(uri)}: expected 64 hex digits after #sha256=")
    if "://" not in place and not pinned:
        return uris.normalise(uri) if uri.startswith("~/") else uri
    place = uris.normalise(place)
    path = _fetched(place, digest) if uris.scheme(place) else _local(place)
    if digest and weights_sha256(path) != digest:
        raise WeightsError(
            f"{redact(place)} has the SHA-256 {weights_sha256(path)}, expected {digest}: "
            "the file was changed, or the pin belongs to another one"
        )
    return str(path)


def weights_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) of a file, or of a folder's files; remembered by size and time.

    Raises:
        WeightsError: there is no such file or folder.
    """
    place = Path(path)
    if place.is_dir():
        names = sorted(
            file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()
        )
        lines = "".join(f"{weights_sha256(place / name)}  {name}\n" for name in names)
        return hashlib.sha256(lines.encode()).hexdigest()
    try:
        status = place.stat()
    except OSError as error:
        raise WeightsError(f"no weights at {place}: {error.strerror}") from error
    known = [status.st_size, status.st_mtime_ns, status.st_ino]
    note = cache_folder() / "sha256" / f"{_key(str(place.resolve()))}.json"
    try:
        remembered = json.loads(note.read_bytes())
        if remembered["file"] == known:
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a note that is missing or damaged is written again
    with place.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _remember(note, {"file": known, "sha256": digest})
    return digest


def _local(place: str) -> Path:
    path = Path(place)
    if not path.exists():
        raise WeightsError(f"no weights at {path}: give a path or URL that exists")
    return path


def _fetched(place: str, digest: str) -> Path:
    """Fetch once: others on this node wait at the lock and find the finished file."""
    shown = uris.parent_and_name(redact(place.split("?")[0]))[1]
    name = re.sub(r"[^\w.-]", "_", shown)[-80:] or "weights"
    target = cache_folder() / "weights" / f"{_key(place)[:16]}-{name}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.exists() and digest and weights_sha256(target) != digest:
                target.unlink()  # fetched before its content was changed at the source
            if not target.exists():
                _download(place, target)
    except (StorageError, UserError, OSError) as error:
        raise WeightsError(
            f"cannot fetch weights {redact(place)}: {redact(str(error))}; "
            "give a local file, or `embedded` for the models that ship with ovseg"
        ) from error
    return target


def _download(place: str, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        folder.fetch(place, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _remember(note: Path, content: dict[str, object]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_name(f"{note.name}.{secrets.token_hex(4)}.part")
        temporary.write_text(json.dumps(content))
        temporary.replace(note)
    except OSError:
        return  # a read-only home folder only costs the hashing of the next time


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
