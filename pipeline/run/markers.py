"""The small JSON files that say what became of a shard: `done/00012.json`, `failed/00012.json`."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from pydantic import ValidationError

from pipeline.storage.folder import Folder
from schemas.base import Frozen
from schemas.records import ShardDone

READERS = 16
"""Files read at once: a run of ten million images has ten thousand markers."""

Kind = Literal["done", "failed"]
Marker = TypeVar("Marker", bound=Frozen)
_NAME = re.compile(r"^(?:done|failed)/(\d{5,})\.json$")


def name(kind: Kind, shard: int) -> str:
    """Return a marker's path in the run folder."""
    return f"{kind}/{shard:05d}.json"


def shards_marked(folder: Folder, kind: Kind) -> list[int]:
    """Return the shards that have a marker, sound or not, in order."""
    found = (_NAME.match(path) for path in folder.list(kind))
    return sorted(int(match[1]) for match in found if match)


def read(folder: Folder, kind: Kind, shard: int, record: type[Marker]) -> Marker | None:
    """Return a marker; None where there is none or a torn one."""
    try:
        return record.model_validate_json(folder.read_bytes(name(kind, shard)))
    except (FileNotFoundError, ValidationError):
        return None


def read_all(folder: Folder, kind: Kind, record: type[Marker]) -> dict[int, Marker]:
    """Return all readable markers by shard, in order."""
    shards = shards_marked(folder, kind)
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda shard: read(folder, kind, shard, record), shards)
        return {shard: marker for shard, marker in zip(shards, found, strict=True) if marker}


def to_json(marker: Frozen) -> bytes:
    """Return the content of a marker."""
    return marker.model_dump_json(indent=1).encode()


def is_whole(folder: Folder, marker: ShardDone, fingerprint: str) -> bool:
    """Tell whether a marker is of this run and its files are there, byte for byte."""
    if marker.fingerprint != fingerprint:
        return False
    try:
        return all(
            sha256(folder.read_bytes(entry.name)) == entry.sha256 for entry in marker.files.values()
        )
    except FileNotFoundError:
        return False


def sha256(data: bytes) -> str:
    """Return the hash in hex."""
    return hashlib.sha256(data).hexdigest()
