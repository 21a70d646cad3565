"""The correction log: every decision of a review, append-only, in `reviewed/log/` of a run folder.

Why not one file: the run may be in a bucket, where nothing can be appended to an object, and
several servers may write at the same time. So every append is an object of its own, and the log is
the sorted list of them:

    0001763690000000123-9f3a12cd.json      an entry: the decisions of one message
    pack-5e0c77b1d2a4.parquet              many entries in one file

*Names.* An entry's name begins with the time in microseconds, padded to 19 digits so that names
sort as numbers do. A writer never uses a time that is not above every name that it has seen, so
its entry sorts behind all decisions that the reviewer could see, whatever the clocks say. The name
ends in 8 random digits, so that two writers never take the same name and nothing is overwritten.
An entry that brings a message with a nonce ends in 32 digits of the nonce's hash instead: if the
answer to the page was lost and the message comes again, maybe to another server, the entry is found
by these digits (`decisions_of`) and not stored twice.

*Writing.* An object is written whole and never changed (`Folder.atomic_write`), so a killed writer
leaves a whole entry or none. `append` returns when the entry is stored. There is no lock between
processes: none is needed.

*Reading.* `refresh` lists the folder and reads the names that it does not know yet. The current
decisions follow from the entries in the order of their names. They are kept in memory here and
nowhere else; they are computed again when entries of others were read, since these may sort between
known ones.

*Packs.* 100,000 small objects take minutes to read from a bucket. A writer that finds 512 loose
entries copies them into one Parquet file, with a column for the entry's name, and then deletes
them. The pack is written first: between the two steps an entry exists twice under the same name and
counts once. A writer that fails to pack has lost nothing; the next append tries again. Two writers
may pack the same entries, which is wasteful and harmless. A reader that listed an entry and finds
it gone (somebody packed it meanwhile) lists again, at most 5 times, and then finds it in the pack.
"""

import hashlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterable

import pyarrow as pa
from pydantic import ValidationError

from pipeline.corrections.current import CurrentDecisions
from pipeline.run.folder import RUN_FILE, RunFolder
from pipeline.storage import parquet
from pipeline.storage.waiting import StorageThreads
from schemas.errors import RunFolderError, StorageError, UserError
from schemas.review import DECISIONS, ReviewDecision, ReviewEntry, ReviewKey

logger = logging.getLogger(__name__)

FOLDER = "reviewed/log"
PACK_AT = 512
"""Number of loose entries that are packed into one file."""
_READERS = 16
_LISTINGS = 5
"""How often the folder is listed when listed entries are packed before they are read."""
_ENTRY = re.compile(r"(\d{19}-(?:[0-9a-f]{8}|[0-9a-f]{32}))\.json")


class ReviewLog:
    """The decisions on one run; any number of threads and processes may write at the same time.

    Args:
        run: at any place.
        pack_at: number of loose entries that are packed into one file.
    """

    def __init__(self, run: RunFolder, pack_at: int = PACK_AT) -> None:
        self._labels = frozenset(run.info.job().vocabulary.names)
        self._run_folder = run.folder
        self._folder = run.folder.child(FOLDER)
        self._pack_at = pack_at
        self._lock = threading.RLock()
        self._entries: dict[str, tuple[ReviewDecision, ...]] = {}
        self._name_by_digits: dict[str, str] = {}
        self._loose: set[str] = set()
        self._packs: set[str] = set()
        self._current = CurrentDecisions()
        self._last_us = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the entries that others have written since the last call.

        Raises:
            RunFolderError: an entry is damaged, or packed again and again while it is read.
        """
        with self._lock:
            for _ in range(_LISTINGS):
                num_known = len(self._entries)
                try:
                    is_complete = self._read_listed()
                finally:
                    if len(self._entries) > num_known:
                        self._current = CurrentDecisions()
                        for entry in self.entries():
                            self._current.add(entry)
                if is_complete:
                    return
        raise RunFolderError(
            f"{self._folder.uri} is packed again and again while it is read: try again"
        )

    def append(self, decisions: Iterable[ReviewDecision], nonce: str = "") -> None:
        """Add decisions, all of them or none; they are stored when this returns.

        Args:
            decisions: in their order.
            nonce: of the message that brought them, see `decisions_of`.

        Raises:
            UserError: the new label of a decision is not a label of the run.
            StorageError: nothing was stored.
        """
        entry = ReviewEntry(decisions=tuple(decisions))
        for decision in entry.decisions:
            if decision.new_label and decision.new_label not in self._labels:
                raise UserError(
                    f"{decision.new_label!r} is not a label of the run; its labels are "
                    f"{', '.join(sorted(self._labels)[:20])}"
                )
        if not entry.decisions:
            return
        if not self._run_folder.exists(RUN_FILE):
            # Writing would create a new folder of this name, where nobody finds the decisions.
            raise StorageError(f"{self._run_folder.uri} was moved or deleted: put it back")
        with self._lock:
            self._last_us = max(time.time_ns() // 1000, self._last_us + 1)
            end = _hash_digits(nonce) if nonce else secrets.token_hex(4)
            name = f"{self._last_us:019d}-{end}"
            self._folder.atomic_write(f"{name}.json", entry.model_dump_json().encode())
            self._keep({name: entry.decisions})
            self._loose.add(name)
            self._current.add(entry.decisions)
            if len(self._loose) >= self._pack_at:
                self._try_to_pack()

    def decisions_of(self, nonce: str) -> tuple[ReviewDecision, ...]:
        """Return the stored decisions of a message by its nonce; empty: it is not stored yet."""
        with self._lock:
            name = self._name_by_digits.get(_hash_digits(nonce), "") if nonce else ""
            return self._entries.get(name, ())

    def entries(self) -> list[tuple[ReviewDecision, ...]]:
        """Return the decisions of each append, in the order of the log."""
        with self._lock:
            return [self._entries[name] for name in sorted(self._entries)]

    def decisions(self) -> list[ReviewDecision]:
        """Return all decisions in the order of the log, undone ones and undos too."""
        return [decision for entry in self.entries() for decision in entry]

    def current(self) -> dict[ReviewKey, ReviewDecision]:
        """Return the current decision of every key that has one."""
        with self._lock:
            return self._current.by_key()

    def current_of_image(self, image_id: str) -> dict[ReviewKey, ReviewDecision]:
        """Return the current decisions on one image, by key."""
        with self._lock:
            return self._current.of_image(image_id)

    def last_message(self, source: str) -> list[ReviewDecision]:
        """Return what is left of the last message of a source, see `CurrentDecisions`."""
        with self._lock:
            return self._current.last_message(source)

    def __len__(self) -> int:
        """Return the number of decisions, undone ones and undos too."""
        with self._lock:
            return sum(map(len, self._entries.values()))

    def _read_listed(self) -> bool:
        """Read the new files of one listing; return False if one of them is gone by now."""
        found = self._folder.list()
        packs = [name for name in found if name.startswith("pack-") and name not in self._packs]
        with StorageThreads(_READERS) as pool:
            for entries in pool.map(self._read_pack, packs):
                self._keep(entries)
            self._packs |= set(packs)
            loose = [match[1] for match in map(_ENTRY.fullmatch, found) if match]
            new = [name for name in loose if name not in self._entries]
            contents = list(pool.map(self._read_entry, new))
        self._loose = set(loose)
        self._keep({n: entry for n, entry in zip(new, contents, strict=True) if entry is not None})
        self._last_us = max(
            [self._last_us, *(int(name.partition("-")[0]) for name in self._entries)]
        )
        return None not in contents

    def _keep(self, entries: dict[str, tuple[ReviewDecision, ...]]) -> None:
        self._entries |= entries
        self._name_by_digits |= {name.partition("-")[2]: name for name in entries}

    def _read_entry(self, name: str) -> tuple[ReviewDecision, ...] | None:
        """Return the decisions of a loose entry; None: it was packed since it was listed."""
        try:
            return ReviewEntry.model_validate_json(
                self._folder.read_bytes(f"{name}.json")
            ).decisions
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise _damaged(f"{self._folder.uri}/{name}.json") from error

    def _read_pack(self, name: str) -> dict[str, tuple[ReviewDecision, ...]]:
        try:
            rows = parquet.read_table(self._folder.read_bytes(name)).to_pylist()
            entries: dict[str, list[ReviewDecision]] = {}
            for row in rows:
                entries.setdefault(row.pop("entry"), []).append(ReviewDecision(**row))
        except (pa.ArrowException, OSError, ValidationError, KeyError) as error:
            raise _damaged(f"{self._folder.uri}/{name}") from error
        return {entry: tuple(decisions) for entry, decisions in entries.items()}

    def _try_to_pack(self) -> None:
        """Pack the loose entries; if that fails they stay, and the next append tries again."""
        try:
            self._pack()
        except (StorageError, UserError) as error:
            logger.warning(
                "the decisions are stored, but could not be packed into one file: %s", error
            )

    def _pack(self) -> None:
        """Copy the loose entries into one file, then delete them."""
        packed = sorted(self._loose)
        rows = [
            {"entry": name, **decision.model_dump()}
            for name in packed
            for decision in self._entries[name]
        ]
        name = f"pack-{secrets.token_hex(6)}.parquet"
        table = pa.Table.from_pylist(rows, schema=DECISIONS)
        self._folder.atomic_write(name, parquet.write_table(table))
        self._packs.add(name)
        self._loose.clear()
        with StorageThreads(_READERS) as pool:
            list(pool.map(lambda entry: self._folder.delete(f"{entry}.json"), packed))


def _hash_digits(nonce: str) -> str:
    return hashlib.sha256(nonce.encode()).hexdigest()[:32]


def _damaged(uri: str) -> RunFolderError:
    return RunFolderError(
        f"{uri} is damaged: restore it from a copy, or move it away to continue without its "
        "decisions"
    )
