"""What people decided, in memory beside the log: the log is written first, then told.

A segment's own decision counts before its label's, and that before the whole image's, as in the
reviewed layer; a skip decides nothing.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.review.index import ReviewIndex
from pipeline.review_log import ReviewLog, take_back
from schemas.review import ReviewDecision, ReviewKey

DONE, REJECTED, RELABELLED, SKIPPED, BEGUN, IMPORTED = 1, 2, 4, 8, 16, 32
"""Bits of `Decisions.marks`: reviewed, that is imported or every mask decided; some mask rejected,
relabelled, skipped, decided here; reviewed in another tool.
"""


class Undone(NamedTuple):
    """What was taken back; `overruled`: somebody else had decided it since, and that stays."""

    key: ReviewKey
    overruled: bool


class Decisions:
    """The log of a run, and what stands of it for each image.

    Args:
        log: kept in the run folder.
        index: the run's images.
        imported: images that were reviewed in another tool.
    """

    def __init__(self, log: ReviewLog, index: ReviewIndex, imported: Collection[str] = ()) -> None:
        """Read what was decided before."""
        self._log = log
        self._imported = frozenset(imported)
        self._index = index
        self._lock = Lock()
        self._begin()

    def _begin(self) -> None:
        self._num_seen = len(self._log)
        self._stacks: dict[ReviewKey, list[ReviewDecision]] = defaultdict(list)
        self._keys: dict[str, dict[ReviewKey, None]] = defaultdict(dict)
        self._history: dict[str, list[ReviewDecision]] = defaultdict(list)
        self.marks: NDArray[np.uint8] = np.zeros(len(self._index), np.uint8)
        for row in self._index.rows(list(self._imported)):
            if row is not None:
                self.marks[row] = DONE | IMPORTED
        self._take(self._log.decisions())

    def refresh(self) -> None:
        """Take in what others have decided meanwhile."""
        with self._lock:
            self._log.refresh()
            if len(self._log) != self._num_seen:
                self._begin()

    def standing(self, image_id: str) -> dict[ReviewKey, ReviewDecision]:
        """Return the decisions on an image that were not undone, by what they are about."""
        with self._lock:
            keys = self._keys.get(image_id, {})
            return {key: self._stacks[key][-1] for key in keys if self._stacks[key]}

    def add(self, decisions: Sequence[ReviewDecision], nonce: str = "") -> None:
        """Store decisions; they are safe when this returns.

        Args:
            decisions: in their order.
            nonce: of the message; what it brought is not stored twice.

        Raises:
            UserError, StorageError: nothing was stored.
        """
        with self._lock:
            if not self._log.told(nonce):
                self._append(decisions, nonce)

    def undo(self, at_s: float, source: str, nonce: str = "") -> Undone | None:
        """Take back what a source decided last, whatever it is about; None: there is nothing."""
        with self._lock:
            for known in self._log.told(nonce):
                return Undone(known.key, overruled=False)
            history = self._history.get(source, [])
            while history and not self._is_kept(history[-1]):
                history.pop()
            if not history:
                return None
            key = history[-1].key
            overruled = self._stacks[key][-1] is not history[-1]
            said = ReviewDecision(**key._asdict(), action="undo", at_s=at_s, source=source)
            self._append([said], nonce)
            return Undone(key, overruled)

    def _is_kept(self, decision: ReviewDecision) -> bool:
        return any(one is decision for one in self._stacks[decision.key])

    def _append(self, decisions: Sequence[ReviewDecision], nonce: str) -> None:
        self._log.append(decisions, nonce)
        self._num_seen += len(decisions)
        self._take(decisions)

    def _take(self, decisions: Sequence[ReviewDecision]) -> None:
        touched = {}
        for decision in decisions:
            key = decision.key
            stack = self._stacks[key]
            if decision.action != "undo":
                stack.append(decision)
                self._history[decision.source].append(decision)
            else:
                take_back(stack, decision.source)
            self._keys[key.image_id][key] = None
            touched[key.image_id] = None
        for image_id, row in zip(touched, self._index.rows(list(touched)), strict=True):
            if row is not None:
                self.marks[row] = self._mark(image_id, row)

    def _mark(self, image_id: str, row: int) -> int:
        standing = [self._stacks[key][-1] for key in self._keys[image_id] if self._stacks[key]]
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
