"""Resolve a weights name or URI to a local file, fetched once per node.

What is fetched is only ever stored and hashed here, never loaded or run. `#sha256=<64 hex digits>`
at a URI's end pins its content. Others on this machine may be able to write to the cache folder, so
a fetched file counts only with the SHA-256 in its note, and a note only if this user alone can have
written it.
"""

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.storage import folder, uris
from schemas.errors import ConfigError, StorageError, UserError, WeightsError
from schemas.redact import redact

CACHE_ENV = "OVSEG_CACHE"
"""Environment variable: the folder in which fetched weights are kept."""

_MAX_NOTE_BYTES = 1 << 16
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_AS_IT_IS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
"""Flags of opening: no link is followed, and no pipe waited for."""
_FOLDERS = ("local-dir:", "diffusers:")
WEIGHTS_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
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
        StorageError: its store is out, or the disk of the cache is full.
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


def cached(uri: str) -> str:
    """Return the local path of weights without fetching them; empty: they are not here.

    Args:
        uri: as for `resolve`.
    """
    place = uris.normalise(uri.partition("#sha256=")[0])
    path = _target(place) if uris.scheme(place) else Path(place)
    return str(path) if path.exists() else ""


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
    # With the time of the last change of any kind, which `touch` cannot set back.
    known = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    note = cache_folder() / "sha256" / f"{_key(str(place.resolve()))}.json"
    remembered = _note(note)
    if remembered.get("file") == known:
        return str(remembered.get("sha256"))
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
    target = _target(place)
    try:
        _make_in_cache(target.parent)
        with FileLock(f"{target}.lock"):
            note = target.with_name(f"{target.name}.json")
            expected = digest or _note(note).get("sha256")
            if target.exists() and weights_sha256(target) != expected:
                # Fetched before its content was changed at the source, or not by this user.
                target.unlink()
            if not target.exists():
                _download(place, target)
                _remember(note, {"sha256": weights_sha256(target)})
    except (StorageError, UserError, OSError) as error:
        kind = type(error) if isinstance(error, StorageError) else WeightsError
        # The address stands before it already.
        why = redact(str(error)).removeprefix(f"cannot fetch {redact(place)}: ")
        raise kind(
            f"cannot fetch weights {redact(place)}: {why}; without network: fetch the file on "
            "another computer, copy it here and give its path in place of this address, in the "
            "same option"
        ) from error
    return target


def _target(place: str) -> Path:
    """Return where what is fetched from a place is kept."""
    shown = uris.parent_and_name(redact(place.split("?")[0]))[1]
    name = re.sub(r"[^\w.-]", "_", shown)[-80:] or "weights"
    return cache_folder() / "weights" / f"{_key(place)[:16]}-{name}"


def _download(place: str, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        folder.fetch(place, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def remember_names(names: Mapping[str, str]) -> None:
    """Note which weights a job of this machine has loaded by which names, see `is_known`.

    Args:
        names: local file by the name that the job gave; a folder of per-image files by itself.
    """
    for name, path in names.items():
        digest = weights_sha256(path) if Path(path).is_file() else ""
        file = str(Path(path).absolute())
        _remember(_note_of_name(name), {"path": file, "sha256": digest})


def is_known(name: str, digests: Collection[str]) -> bool:
    """Return whether a job of this machine has loaded weights by this name with such a content.

    Nothing is looked up by the name; the file that the job had loaded must be as it was then.

    Args:
        name: of a network, a weights file, or a folder of per-image files.
        digests: SHA-256 of the weights in question.
    """
    try:
        note = _note(_note_of_name(name))
    except ConfigError:  # a URL with a password
        return False
    path, digest = note.get("path"), note.get("sha256")
    if not isinstance(path, str) or not isinstance(digest, str):
        return False
    if not digest:
        return True  # a folder of per-image files
    try:
        return digest in digests and weights_sha256(path) == digest
    except WeightsError:
        return False


def _note_of_name(name: str) -> Path:
    prefix, colon, place = name.rpartition(":") if name.startswith(_FOLDERS) else ("", "", name)
    is_path = bool(colon) or "/" in place or place.endswith(WEIGHTS_ENDINGS)
    if is_path and "://" not in place and not name.startswith("hf-hub:"):
        place = uris.normalise(place)  # a relative path is another one in another folder
    return cache_folder() / "names" / f"{_key(f'{prefix}{colon}{place}')}.json"


def _make_in_cache(folder: Path) -> None:
    """Make a folder in the cache; what is new of both is for this user only."""
    for made in (cache_folder(), folder):
        made.mkdir(0o700, parents=True, exist_ok=True)


def _remember(note: Path, content: dict[str, object]) -> None:
    try:
        _make_in_cache(note.parent)
        temporary = note.with_name(f"{note.name}.{secrets.token_hex(4)}.part")
        with os.fdopen(os.open(temporary, _NEW, 0o600), "w") as file:
            file.write(json.dumps(content))
        temporary.replace(note)
    except OSError:
        return  # a read-only home folder only costs the hashing of the next time


def _note(path: Path) -> dict[str, Any]:
    """Return what a note says; empty if it is missing, damaged, or others can have written it."""
    try:
        with os.fdopen(os.open(path, _AS_IT_IS), "rb") as file:
            status = os.fstat(file.fileno())
            is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o022
            if not is_own or not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_NOTE_BYTES:
                return {}
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
