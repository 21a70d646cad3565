"""The decisions of people who look through a run: `reviewed/log/` of the run folder.

    0001763690000000123-9f3a12cd.json      one append: written whole, never changed
    pack-5e0c77b1d2a4.parquet              many of them in one file; they are then removed

Every writer gives its objects names that no other has, so nothing can be overwritten, and a killed
one leaves an object that is whole or none. A name begins with microseconds, raised above every one
that its writer has seen: sorted names are the order of the decisions. It ends in random digits, or
in those of the message that brought it, which is then known when it comes again. A pack keeps its
entries' names, so that one which is also still there as an object counts once.
"""

import hashlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from pydantic import ValidationError

from pipeline.corrections.current import CurrentDecisions
from pipeline.run.folder import RUN_FILE, RunFolder
from pipeline.storage import parquet
from schemas.errors import RunFolderError, StorageError, UserError
from schemas.review import DECISIONS, ReviewDecision, ReviewEntry, ReviewKey

log = logging.getLogger(__name__)

FOLDER = "reviewed/log"
PACK_AT = 512
"""So many objects become one file."""
_READERS = 16
_LISTINGS = 5
"""How often a listing is repeated while others pack what it names."""
_ENTRY = re.compile(r"(\d{19}-(?:[0-9a-f]{8}|[0-9a-f]{32}))\.json")
_ROW_GROUP = 65536


class ReviewLog:
    """The decisions on one run; any number of threads and processes may write at once.

    Args:
        run: at any place.
        pack_at: objects that are packed into one file.
    """

    def __init__(self, run: RunFolder, pack_at: int = PACK_AT) -> None:
        self._names = frozenset(run.info.job().vocabulary.names)
        self._run_folder = run.folder
        self._folder = run.folder.child(*FOLDER.split("/"))
        self._pack_at = pack_at
        self._lock = threading.RLock()
        self._entries: dict[str, tuple[ReviewDecision, ...]] = {}
        self._named: dict[str, str] = {}
        self._loose: set[str] = set()
        self._packs: set[str] = set()
        self._standing: CurrentDecisions | None = None
        self._last = 0
        self.refresh()

    def refresh(self) -> None:
        """Read what others have written since."""
        with self._lock:
            for _ in range(_LISTINGS):
                if self._read_listed():
                    self._standing = None
                    return
        raise RunFolderError(
            f"{self._folder.uri} is packed again and again while it is read: try again"
        )

    def append(self, decisions: Iterable[ReviewDecision], nonce: str = "") -> None:
        """Add decisions, all or none of them; they are stored when this returns.

        Args:
            decisions: in their order.
            nonce: of the message that brought them, to know it again, see `told`.

        Raises:
            UserError: a relabel to what is no label of the run.
            StorageError: nothing was stored.
        """
        entry = ReviewEntry(decisions=tuple(decisions))
        for decision in entry.decisions:
            if decision.new_label and decision.new_label not in self._names:
                raise UserError(
                    f"{decision.new_label!r} is no label of the run; it has "
                    f"{', '.join(sorted(self._names)[:20])}"
                )
        if not entry.decisions:
            return
        if not self._run_folder.exists(RUN_FILE):
            # Else a folder of this name would be made anew, which nobody ever looks into.
            raise StorageError(f"{self._run_folder.uri} was moved or deleted: put it back")
        with self._lock:
            self._last = max(time.time_ns() // 1000, self._last + 1)
            name = f"{self._last:019d}-{_digits(nonce) if nonce else secrets.token_hex(4)}"
            self._folder.atomic_write(f"{name}.json", entry.model_dump_json().encode())
            self._keep({name: entry.decisions})
            self._loose.add(name)
            if self._standing is not None:
                self._standing.add(entry.decisions)
            if len(self._loose) >= self._pack_at:
                self._try_to_pack()

    def told(self, nonce: str) -> tuple[ReviewDecision, ...]:
        """Return what a message brought whose answer may have been lost; nothing: it is new."""
        with self._lock:
            return self._entries.get(self._named.get(_digits(nonce), ""), ()) if nonce else ()

    def entries(self) -> list[tuple[ReviewDecision, ...]]:
        """Return what each append brought, in their order."""
        with self._lock:
            return [self._entries[name] for name in sorted(self._entries)]

    def decisions(self) -> list[ReviewDecision]:
        """Return all decisions in their order."""
        return [decision for entry in self.entries() for decision in entry]

    def state(self) -> dict[ReviewKey, ReviewDecision]:
        """Return the decision that counts of every key that has one; undone ones have gone."""
        with self._lock:
            if self._standing is None:
                self._standing = CurrentDecisions()
                for entry in self.entries():
                    self._standing.add(entry)
            return self._standing.state()

    def __len__(self) -> int:
        """Return the number of decisions, undone ones and undos among them."""
        with self._lock:
            return sum(map(len, self._entries.values()))

    def _read_listed(self) -> bool:
        """Read the new files of one listing; False where one of them has gone meanwhile."""
        found = self._folder.list()
        packs = [name for name in found if name.startswith("pack-") and name not in self._packs]
        with ThreadPoolExecutor(_READERS) as pool:
            for entries in pool.map(self._read_pack, packs):
                self._keep(entries)
            self._packs |= set(packs)
            loose = [match[1] for match in map(_ENTRY.fullmatch, found) if match]
            new = [name for name in loose if name not in self._entries]
            contents = list(pool.map(self._read_entry, new))
        self._loose = set(loose)
        self._keep({n: entry for n, entry in zip(new, contents, strict=True) if entry is not None})
        self._last = max([self._last, *(int(name.partition("-")[0]) for name in self._entries)])
        return None not in contents

    def _keep(self, entries: dict[str, tuple[ReviewDecision, ...]]) -> None:
        self._entries |= entries
        self._named |= {name.partition("-")[2]: name for name in entries}

    def _read_entry(self, name: str) -> tuple[ReviewDecision, ...] | None:
        """Return what an object holds; None where it was packed since it was listed."""
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
            rows = parquet.decode(self._folder.read_bytes(name)).to_pylist()
            entries: dict[str, list[ReviewDecision]] = {}
            for row in rows:
                entries.setdefault(row.pop("entry"), []).append(ReviewDecision(**row))
        except (pa.ArrowException, OSError, ValidationError, KeyError) as error:
            raise _damaged(f"{self._folder.uri}/{name}") from error
        return {entry: tuple(decisions) for entry, decisions in entries.items()}

    def _try_to_pack(self) -> None:
        """Pack; where that fails the decisions are stored none the less: the next append tries."""
        try:
            self._pack()
        except (StorageError, UserError) as error:
            log.warning("the decisions are stored, but not packed into one file: %s", error)

    def _pack(self) -> None:
        """Copy the loose objects into one file, then remove them."""
        packed = sorted(self._loose)
        rows = [
            {"entry": name, **decision.model_dump()}
            for name in packed
            for decision in self._entries[name]
        ]
        name = f"pack-{secrets.token_hex(6)}.parquet"
        table = pa.Table.from_pylist(rows, schema=DECISIONS)
        self._folder.atomic_write(name, parquet.encode(table, _ROW_GROUP))
        self._packs.add(name)
        self._loose.clear()
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(lambda gone: self._folder.delete(f"{gone}.json"), packed))


def _digits(nonce: str) -> str:
    return hashlib.sha256(nonce.encode()).hexdigest()[:32]


def _damaged(uri: str) -> RunFolderError:
    return RunFolderError(
        f"{uri} is damaged, and decisions with it: restore it from a copy, or move it away to go "
        "on without them"
    )
