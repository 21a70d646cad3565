"""What people decided, in memory beside the log: the log is written first, then told.

A segment's own decision counts before its label's, and that before the whole image's, as in the
reviewed layer; a skip decides nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.corrections.current import CurrentDecisions
from pipeline.corrections.log import ReviewLog
from pipeline.review.index import ReviewIndex
from schemas.review import ReviewDecision, ReviewKey

DONE, REJECTED, RELABELLED, SKIPPED, BEGUN, IMPORTED = 1, 2, 4, 8, 16, 32
"""Bits of `Decisions.marks`: reviewed, that is imported or every mask decided; some mask rejected,
relabelled, skipped, decided here; reviewed in another tool.
"""


_FITS = {"accept": ("accept", "relabel"), "reject": ("reject",)}
"""Decisions on masks that one on their whole image leaves: what was relabelled is right by now."""


class Undone(NamedTuple):
    """What was taken back, what was said last first.

    `overruled`: somebody else had decided some of it since, and that stays.
    """

    keys: tuple[ReviewKey, ...]
    overruled: bool


class Decisions:
    """The log of a run, and what stands of it for each image.

    Args:
        log: kept in the run folder.
        index: the run's images.
        imported: images that were reviewed in another tool, and when they came, in Unix seconds;
            what was decided of them before counts no more.
    """

    def __init__(
        self, log: ReviewLog, index: ReviewIndex, imported: Mapping[str, float] | None = None
    ) -> None:
        """Read what was decided before."""
        self._log = log
        self._imported = dict(imported or {})
        self._index = index
        self._lock = Lock()
        self._begin()

    def _begin(self) -> None:
        entries = self._log.entries()
        self._num_seen = sum(map(len, entries))
        self._standing = CurrentDecisions()
        for entry in entries:
            self._standing.add(entry)
        self.marks: NDArray[np.uint8] = np.zeros(len(self._index), np.uint8)
        self._mark({*self._imported, *(one.image_id for entry in entries for one in entry)})

    def refresh(self) -> None:
        """Take in what others have decided meanwhile."""
        with self._lock:
            self._log.refresh()
            if len(self._log) != self._num_seen:
                self._begin()

    def standing(self, image_id: str) -> dict[ReviewKey, ReviewDecision]:
        """Return the decisions on an image that were not undone, by what they are about."""
        with self._lock:
            return self._counting(image_id)

    def _counting(self, image_id: str) -> dict[ReviewKey, ReviewDecision]:
        imported_at_s = self._imported.get(image_id, -1.0)
        standing = self._standing.of_image(image_id)
        return {key: one for key, one in standing.items() if one.at_s > imported_at_s}

    def add(self, decisions: Sequence[ReviewDecision], nonce: str = "") -> None:
        """Store decisions; they are safe when this returns.

        What is said of a whole image is also said of each mask of it that was decided otherwise by
        itself, which would count before it; relabelled masks are accepted as what they are now.

        Args:
            decisions: in their order; taken back together.
            nonce: of the message; what it brought is not stored twice.

        Raises:
            UserError, StorageError: nothing was stored.
        """
        with self._lock:
            if not self._log.told(nonce):
                self._append(self._with_overruled(decisions), nonce)

    def _with_overruled(self, decisions: Sequence[ReviewDecision]) -> list[ReviewDecision]:
        told: list[ReviewDecision] = []
        latest: dict[str, dict[ReviewKey, ReviewDecision]] = {}
        for one in decisions:
            known = latest.setdefault(one.image_id, self._counting(one.image_id))
            said = [one]
            if one.label is None and one.action in _FITS:
                fits = _FITS[one.action]
                others = [k for k, was in known.items() if k.label and was.action not in fits]
                said = [*(one.model_copy(update=key._asdict()) for key in others), one]
            known.update((each.key, each) for each in said)
            told += said
        return told

    def undo(self, at_s: float, source: str, nonce: str = "") -> Undone | None:
        """Take back what a source's last message told, whatever it is about.

        Returns:
            None: there is nothing.
        """
        with self._lock:
            known = self._log.told(nonce)
            if known:
                return Undone(tuple(one.key for one in known), overruled=False)
            left = self._standing.last_of(source)
            if not left:
                return None
            keys = tuple(one.key for one in reversed(left))
            overruled = any(
                self._standing.of_image(key.image_id)[key].source != source for key in set(keys)
            )
            undo = {"action": "undo", "at_s": at_s, "source": source}
            self._append([ReviewDecision(**key._asdict(), **undo) for key in keys], nonce)
            return Undone(keys, overruled)

    def _append(self, decisions: Sequence[ReviewDecision], nonce: str) -> None:
        self._log.append(decisions, nonce)
        self._num_seen += len(decisions)
        self._standing.add(decisions)
        self._mark({one.image_id for one in decisions})

    def _mark(self, image_ids: Collection[str]) -> None:
        touched = list(image_ids)
        for image_id, row in zip(touched, self._index.rows(touched), strict=True):
            if row is not None:
                self.marks[row] = self._bits(image_id, row)

    def _bits(self, image_id: str, row: int) -> int:
        standing = self._counting(image_id).values()
        bits = (BEGUN if standing else 0) | (IMPORTED | DONE if image_id in self._imported else 0)
        for decision in standing:
            bits |= {"reject": REJECTED, "relabel": RELABELLED, "skip": SKIPPED}.get(
                decision.action, 0
            )
        decided = [one for one in standing if one.action != "skip"]
        whole = any(one.label is None for one in decided)
        return bits | (DONE if whole or self._all_decided(row, decided) else 0)

    def _all_decided(self, row: int, decided: Sequence[ReviewDecision]) -> bool:
        segments = self._index.segments
        labels = segments.label[segments.of(row)]
        if not len(labels):
            return False
        whole_labels = {one.label for one in decided if one.segment_index is None}
        left = sum(self._index.labels[label - 1] not in whole_labels for label in labels.tolist())
        singles = {
            one.segment_index
            for one in decided
            if one.segment_index is not None and one.label not in whole_labels
        }
        return len(singles) >= left
