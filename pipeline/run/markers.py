"""The small JSON files that say what became of a shard: `done/00012.json`, `failed/00012.json`."""

import hashlib
import logging
import re
from typing import Literal, TypeVar

from pydantic import ValidationError

from pipeline.storage.folder import Folder
from pipeline.storage.local import FileTooLargeError, NotAFileError
from pipeline.storage.waiting import StorageThreads
from schemas.base import Frozen
from schemas.records import ShardDone
from schemas.untrusted import printable

logger = logging.getLogger(__name__)
TABLES_OF_A_SHARD = {"images", "scores", "annotations"}
_MAX_MARKER_BYTES = 1 << 20
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
    path = marker_path(kind, shard)
    try:
        marker = record.model_validate_json(folder.read_bytes(path, _MAX_MARKER_BYTES))
    except (FileNotFoundError, ValidationError):
        return None
    except (NotAFileError, FileTooLargeError) as error:
        logger.warning("%s, and does not count as a marker", error)
        return None
    wrong = _wrong_claim(marker, shard)
    if wrong:
        logger.warning("%s/%s does not count: %s", folder.uri, path, wrong)
        return None
    return marker


def _wrong_claim(marker: Frozen, shard: int) -> str:
    """Return what a marker says that no marker of its shard can say; empty: nothing."""
    if not isinstance(marker, ShardDone):
        return ""
    if marker.shard != shard:
        return f"it says that it is of shard {marker.shard}"
    if marker.files.keys() != TABLES_OF_A_SHARD:
        return "expected an entry for each of the three tables"
    for table, entry in marker.files.items():
        if not re.fullmatch(rf"{table}/{shard:05d}-[A-Za-z0-9_-]{{1,200}}[.]parquet", entry.name):
            return f"it names {printable(entry.name[:80])} as its {table}"
    return ""


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
