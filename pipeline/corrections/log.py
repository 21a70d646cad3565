"""The correction log: every decision of a review, append-only, in `reviewed/log/` of a run folder.

Why not one file: the run may be in a bucket, where nothing can be appended to an object, and
several servers may write at the same time. So every append is an object of its own, and the log is
the sorted list of them:

    0001763690000000123-9f3a12cd.json      an entry: the decisions of one message
    pack-5e0c77b1d2a4.parquet              many entries in one file

*Names.* An entry's name begins with the time in microseconds, padded to 19 digits so that names
sort as numbers do. A writer never uses a time that is not above every name that it has seen, so
its entry sorts behind all decisions that the reviewer could see, whatever the clocks say. A name
that is more than a day ahead of the clock does not count: anybody may have written it, and a writer
that went on from it would soon find no higher one. The name
ends in 8 random digits, so that two writers never take the same name and nothing is overwritten.
An entry that brings a message with a nonce ends in 32 digits of the nonce's hash instead: if the
answer to the page was lost and the message comes again, maybe to another server, the entry is found
by these digits (`decisions_of`) and not stored twice.

*Writing.* An object is written whole and never changed (`Folder.atomic_write`), so a killed writer
leaves a whole entry or none. `append` returns when the entry is stored. There is no lock between
processes: none is needed.

*Skipping.* Of an entry the decisions count that can be read and are of the run's labels; the others
are counted and named (`skipped`), and stop nobody.

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
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from pipeline.corrections.current import CurrentDecisions
from pipeline.run.folder import RUN_FILE, RunFolder
from pipeline.storage import parquet
from pipeline.storage.waiting import StorageThreads
from schemas.base import Frozen, problems
from schemas.errors import RunFolderError, StorageError, UserError
from schemas.review import DECISIONS, ReviewDecision, ReviewEntry, ReviewKey
from schemas.untrusted import printable

logger = logging.getLogger(__name__)

FOLDER = "reviewed/log"
PACK_AT = 512
"""Number of loose entries that are packed into one file."""
_READERS = 16
_LISTINGS = 5
"""How often the folder is listed when listed entries are packed before they are read."""
_MAX_ENTRY_BYTES = 8 << 20
_MAX_PACK_BYTES = 256 << 20
FILES = r"[0-9]{19}-[0-9a-f]{8,32}\.json|pack-[0-9a-f]{12}\.parquet"
"""Pattern of the names in the folder."""
_NAME = re.compile(r"([0-9]{19})-(?:[0-9a-f]{8}|[0-9a-f]{32})")
_CLOCKS_DIFFER_US = 24 * 3600 * 10**6
_PLAUSIBLE_US, _LAST_US = 1_735_689_600 * 10**6, 7_258_118_400 * 10**6
"""The years 2025 and 2200: a machine whose clock says an earlier time does not know the time."""
_NUM_TOLD = 3


def latest_us() -> int:
    """Return the highest time in microseconds that the name of an entry may begin with now."""
    now_us = time.time_ns() // 1000
    return now_us + _CLOCKS_DIFFER_US if now_us > _PLAUSIBLE_US else _LAST_US


class Skipped:
    """What of a review does not count, with the reason, by name; said once in the program's log.

    Args:
        place: the folder, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._num_told = 0
        self.reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Note one entry, decision or row."""
        self.reasons.setdefault(name, reason)

    def tell(self) -> None:
        """Say how many there are that were not said before, and name the first ones."""
        new = list(self.reasons.items())[self._num_told :]
        self._num_told = len(self.reasons)
        if new:
            shown = "; ".join(
                f"{printable(name)}: {printable(why)}" for name, why in new[:_NUM_TOLD]
            )
            more = f"; and {len(new) - _NUM_TOLD} more" if len(new) > _NUM_TOLD else ""
            logger.warning(
                "%s: %d entries or decisions are skipped, as they are not what ovseg writes: %s%s",
                self._place, len(new), shown, more,
            )  # fmt: skip


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
        self._not_whole: set[str] = set()  # never packed, so that what was skipped stays
        self._packs: set[str] = set()
        self._current = CurrentDecisions()
        self._last_us = 0
        self._skipped = Skipped(self._folder.uri)
        self.refresh()

    @property
    def skipped(self) -> dict[str, str]:
        """Why entries, and single decisions of them, do not count, by name."""
        return dict(self._skipped.reasons)

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
                    self._skipped.tell()
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
            UserError: the new label of a decision is not a label of the run; or the last entry is
                so far ahead of the clock that a later one would not count.
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
            next_us = max(time.time_ns() // 1000, self._last_us + 1)
            if next_us > latest_us():
                raise UserError(
                    f"{self._folder.uri} cannot be extended: its last entry "
                    f"({self._last_us:019d}-...) is more than a day ahead of the clock; "
                    "set the clock of this machine, or move the entry away"
                )
            self._last_us = next_us
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
            names = [name.removesuffix(".json") for name in found if name.endswith(".json")]
            loose = [name for name in names if self._is_entry(name)]
            new = [name for name in loose if name not in self._entries]
            contents = list(pool.map(self._read_entry, new))
        self._loose = set(loose) - self._not_whole
        self._keep({n: entry for n, entry in zip(new, contents, strict=True) if entry is not None})
        self._last_us = max([self._last_us, *(_time_us(name) for name in self._entries)])
        return None not in contents

    def _is_entry(self, name: str) -> bool:
        """Return whether a name is one that ovseg gives an entry until now; note another."""
        if not _NAME.fullmatch(name):
            self._skipped.add(name, "not the name of an entry")
            return False
        if _time_us(name) > latest_us():
            self._skipped.add(name, "its name is more than a day ahead of the clock")
            return False
        return True

    def _keep(self, entries: dict[str, tuple[ReviewDecision, ...]]) -> None:
        self._entries |= entries
        self._name_by_digits |= {name.partition("-")[2]: name for name in entries}

    def _read_entry(self, name: str) -> tuple[ReviewDecision, ...] | None:
        """Return the decisions of a loose entry; None: it was packed since it was listed."""
        try:
            data = self._folder.read_bytes(f"{name}.json", _MAX_ENTRY_BYTES)
            values = _Entry.model_validate_json(data).decisions
        except FileNotFoundError:
            return None
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                raise _damaged(f"{self._folder.uri}/{name}.json") from error
            self._skipped.add(name, _reason(error))
            values = ()
        found = [self._decision(f"{name}, {n}", value) for n, value in enumerate(values, 1)]
        if not values or None in found:
            self._not_whole.add(name)
        return tuple(decision for decision in found if decision is not None)

    def _decision(self, name: str, value: Any) -> ReviewDecision | None:
        """Return a stored decision; None: it cannot be read or is not of this run; note why."""
        try:
            decision = ReviewDecision.model_validate(value)
        except ValidationError as error:
            self._skipped.add(name, _reason(error))
            return None
        for label in (decision.label, decision.new_label):
            if label and label not in self._labels:
                self._skipped.add(name, f"{label[:80]!r} is not a label of the run")
                return None
        return decision

    def _read_pack(self, name: str) -> dict[str, tuple[ReviewDecision, ...]]:
        try:
            rows = parquet.read_table(self._folder.read_bytes(name, _MAX_PACK_BYTES)).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(f"{self._folder.uri}/{name}") from error
        entries: dict[str, list[ReviewDecision]] = {}
        for place, row in enumerate(rows, 1):
            entry = row.pop("entry", None)
            if not isinstance(entry, str) or not self._is_entry(entry):
                self._skipped.add(f"{name}, row {place}", "not the name of an entry")
                continue
            decision = self._decision(f"{name}, row {place}", row)
            if decision is not None:
                entries.setdefault(entry, []).append(decision)
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


class _Entry(Frozen):
    """A `ReviewEntry` as it is read: each decision is looked at by itself."""

    decisions: tuple[Any, ...]


def _time_us(name: str) -> int:
    return int(name.partition("-")[0])


def _reason(error: ValidationError) -> str:
    return problems(error)[0]


def _hash_digits(nonce: str) -> str:
    return hashlib.sha256(nonce.encode()).hexdigest()[:32]


def _damaged(uri: str) -> RunFolderError:
    return RunFolderError(
        f"{uri} is damaged: restore it from a copy, or move it away to continue without its "
        "decisions"
    )
