"""The small JSON files that say what became of a shard: `done/00012.json`, `failed/00012.json`."""

import hashlib
import logging
import re
from functools import lru_cache
from typing import Literal, TypeVar

from pydantic import ValidationError

from pipeline.run.tables.old_versions import tables_of
from pipeline.storage.folder import Folder
from pipeline.storage.local import FileTooLargeError, NotAFileError
from pipeline.storage.waiting import StorageThreads
from schemas.base import Frozen
from schemas.records import ShardDone
from schemas.untrusted import printable

logger = logging.getLogger(__name__)
_MAX_MARKER_BYTES = 1 << 20
READERS = 16
"""Files read at once: a run of ten million images has ten thousand markers."""

Kind = Literal["done", "failed"]
Marker = TypeVar("Marker", bound=Frozen)
_PATH = re.compile(r"^(?:done|failed)/(\d{5,})\.json$")
_TABLE_FILE = re.compile(r"([a-z]+)/(\d{5,})-[A-Za-z0-9_-]{1,200}[.]parquet")
MAX_TABLE_BYTES = 1 << 30
"""Of one file of a shard; a worker holds more than that in memory before it writes it."""

MAX_SECONDS = 1e9
"""Of one stage of a shard: 30 years."""


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
        return checked_marker(folder, kind, shard, record)
    except (FileNotFoundError, ValidationError):
        return None
    except (NotAFileError, FileTooLargeError) as error:
        _warn_once(f"{error}, and does not count as a marker")
        return None
    except WrongMarkerError as error:
        does_not_count(folder, path, str(error))
        return None


class WrongMarkerError(Exception):
    """A marker says what no marker of its shard can say."""


def checked_marker(folder: Folder, kind: Kind, shard: int, record: type[Marker]) -> Marker:
    """Return a marker.

    Raises:
        FileNotFoundError: there is none.
        ValidationError: it is torn.
        NotAFileError, FileTooLargeError: it is none that ovseg wrote.
        WrongMarkerError: it says what cannot be.
    """
    data = folder.read_bytes(marker_path(kind, shard), _MAX_MARKER_BYTES)
    marker = record.model_validate_json(data)
    wrong = _wrong_claim(marker, shard)
    if wrong:
        raise WrongMarkerError(wrong)
    return marker


def does_not_count(folder: Folder, path: str, why: str) -> None:
    """Say, once for all reads, why a marker is as good as none."""
    _warn_once(f"{folder.uri}/{path} does not count: {why}")


@lru_cache(maxsize=4096)
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _wrong_claim(marker: Frozen, shard: int) -> str:
    """Return what a marker says that no marker of its shard can say; empty: nothing."""
    if not isinstance(marker, ShardDone):
        return ""
    if marker.shard != shard:
        return f"it says that it is of shard {marker.shard}"
    if marker.files.keys() != tables_of(marker.schema_version):
        return "expected an entry for each of its tables"
    for table, entry in marker.all_files.items():
        match = _TABLE_FILE.fullmatch(entry.name)
        if match is None or match.groups() != (table, f"{shard:05d}"):
            return f"it names {printable(entry.name[:80])} as its {table}"
        if entry.size_bytes > MAX_TABLE_BYTES:
            return (
                f"its {table} have {entry.size_bytes:,} bytes, at most {MAX_TABLE_BYTES:,} can be"
            )
    return _wrong_tally(marker)


def _wrong_tally(marker: ShardDone) -> str:
    tally, rows = marker.tally, {table: entry.num_rows for table, entry in marker.files.items()}
    if tally.num_images != rows["images"] or tally.num_segments != rows["annotations"]:
        return (
            f"it says {tally.num_images} images and {tally.num_segments} segments, and that its "
            f"files have {rows['images']} and {rows['annotations']}"
        )
    if max(sum(tally.errors.values()), tally.num_multi_frame) > tally.num_images:
        return f"it counts more failed images, or more of several frames, than {tally.num_images}"
    if rows.get("vectors", 0) > tally.num_images - sum(tally.errors.values()):
        return f"its file of vectors has {rows['vectors']}, more than images were annotated"
    if marker.features and marker.features.num_rows > tally.num_images:
        return f"its file of features has {marker.features.num_rows}, more than it has images"
    if not all(seconds <= MAX_SECONDS for seconds in tally.seconds.values()):
        return f"it says that a stage took no finite time, or more than {MAX_SECONDS:,.0f} s"
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
            bytes_sha256(folder.read_bytes(entry.name, max(entry.size_bytes, 1))) == entry.sha256
            for entry in marker.files.values()
        )
    except (FileNotFoundError, FileTooLargeError):
        return False


def bytes_sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes in hex."""
    return hashlib.sha256(data).hexdigest()
