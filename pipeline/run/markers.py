"""The small JSON files that say what became of a shard: `done/00012.json`, `failed/00012.json`."""

import hashlib
import re
from typing import Literal, TypeVar

from pydantic import ValidationError

from pipeline.storage.folder import Folder
from pipeline.storage.waiting import StorageThreads
from schemas.base import Frozen
from schemas.records import ShardDone

READERS = 16
"""Files read at once: a run of ten million images has ten thousand markers."""

Kind = Literal["done", "failed"]
Marker = TypeVar("Marker", bound=Frozen)
_PATH = re.compile(r"^(?:done|failed)/(\d{5,})\.json$")


def marker_path(kind: Kind, shard: int) -> str:
    """Return a marker's path in the run folder."""
    return f"{kind}/{shard:05d}.json"


def marker_json(marker: Frozen) -> bytes:
    """Return the content of a marker."""
    return marker.model_dump_json(indent=1).encode()


def marked_shards(folder: Folder, kind: Kind) -> list[int]:
    """Return the shards that have a marker, readable or not, in order."""
    matches = (_PATH.match(path) for path in folder.list(kind))
    return sorted(int(match[1]) for match in matches if match)


def read_marker(folder: Folder, kind: Kind, shard: int, record: type[Marker]) -> Marker | None:
    """Return a marker; None where there is none or a torn one."""
    try:
        return record.model_validate_json(folder.read_bytes(marker_path(kind, shard)))
    except (FileNotFoundError, ValidationError):
        return None


def read_markers(folder: Folder, kind: Kind, record: type[Marker]) -> dict[int, Marker]:
    """Return all readable markers by shard, in order."""
    shards = marked_shards(folder, kind)
    with StorageThreads(READERS) as pool:
        markers = pool.map(lambda shard: read_marker(folder, kind, shard, record), shards)
        return {shard: marker for shard, marker in zip(shards, markers, strict=True) if marker}


def is_intact(folder: Folder, marker: ShardDone, fingerprint: str) -> bool:
    """Return whether a marker is of this run and its files are there, byte for byte."""
    if marker.fingerprint != fingerprint:
        return False
    try:
        return all(
            bytes_sha256(folder.read_bytes(entry.name)) == entry.sha256
            for entry in marker.files.values()
        )
    except FileNotFoundError:
        return False


def bytes_sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()
