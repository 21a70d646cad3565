"""Decisions of reviewers: the messages of the page, the log they go to, and each image's marks.

A segment's own decision counts before its label's, and that before the whole image's, as in the
reviewed layer; a skip decides nothing. The log is written first, then the marks in memory.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from enum import IntFlag
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.corrections.imports import ImportState
from pipeline.corrections.layer import decision_on
from pipeline.corrections.log import ReviewLog
from pipeline.review.index import ReviewIndex
from schemas.base import Frozen
from schemas.review import DecisionContent, ReviewDecision, ReviewKey

SOURCE = "ovseg review"
"""`ReviewDecision.source` of decisions of the page; the reviewer's name follows, if there is one.
"""
_UNCHANGED = {"accept": ("accept", "relabel"), "reject": ("reject",)}
"""Decisions on single masks that stay as they are when the whole image is accepted or rejected:
accepting the image also accepts the new label of a relabelled mask."""


class _Message(Frozen):
    nonce: str = Field("", max_length=64)
    """The same when a message is sent again because its answer was lost: it is stored once."""
    reviewer: str = Field("", pattern=r"^([0-9a-f]{16})?$")
    """A random name that a browser chose; undo takes back decisions of the same reviewer."""

    @property
    def source(self) -> str:
        """The sender as the log stores it."""
        return f"{SOURCE} {self.reviewer}".rstrip()


class UndoMessage(_Message):
    """Take back the reviewer's last message."""


class DecisionMessage(_Message):
    """Decisions that are stored together and undone together."""

    decisions: tuple[DecisionContent, ...] = Field(min_length=1, max_length=1000)

    def as_decisions(self, at_s: float) -> list[ReviewDecision]:
        """Return the decisions as the log takes them."""
        return [
            ReviewDecision(**one.model_dump(), at_s=at_s, source=self.source)
            for one in self.decisions
        ]


class Mark(IntFlag):
    """State of the review of one image; the page shows the names in lower case."""

    DONE = 1
    """Reviewed: imported, or every mask decided."""
    REJECTED = 2
    """Some mask is rejected, or the image, which has none."""
    RELABELLED = 4
    """Some mask has another label."""
    SKIPPED = 8
    """The image was skipped, or some mask, and no other mask is undecided."""
    BEGUN = 16
    """Something was decided on the review page."""
    IMPORTED = 32
    """Reviewed in another tool, at least in part."""


class Undone(NamedTuple):
    """The decisions that an undo took back.

    Attributes:
        keys: what they were about, the latest first.
        overruled: another reviewer had decided some of it later; that decision stays.
    """

    keys: tuple[ReviewKey, ...]
    overruled: bool


class Decisions:
    """The correction log of a run with the marks that follow from it; safe for threads.

    Args:
        log: of the run; it holds the current decisions.
        index: the run's images.
        imported: images that were reviewed in another tool, and what their import means.
    """

    def __init__(
        self, log: ReviewLog, index: ReviewIndex, imported: Mapping[str, ImportState] | None = None
    ) -> None:
        self._log = log
        self._imported = dict(imported or {})
        self._replaced_s = index.run.replaced_s
        self._index = index
        self._lock = Lock()
        self._mark_all()

    def _mark_all(self) -> None:
        decisions = self._log.decisions()
        self._num_seen = len(decisions)
        self.marks: NDArray[np.uint8] = np.zeros(len(self._index), np.uint8)
        self._mark({*self._imported, *(one.image_id for one in decisions)})

    def refresh(self) -> None:
        """Read decisions that other processes have stored."""
        with self._lock:
            self._log.refresh()
            if len(self._log) != self._num_seen:
                self._mark_all()

    def current(self, image_id: str) -> dict[ReviewKey, ReviewDecision]:
        """Return the current decisions on an image, by segment, label or whole image."""
        since_s = self._since_s(image_id)
        current = self._log.current_of_image(image_id)
        return {key: one for key, one in current.items() if one.at_s > since_s}

    def _since_s(self, image_id: str) -> float:
        """Return until when decisions on an image do not count, in Unix seconds."""
        imported = self._imported.get(image_id)
        if imported is not None:
            return imported.since_s
        return self._replaced_s.get(image_id, -1.0)

    def add(self, decisions: Sequence[ReviewDecision], nonce: str = "") -> None:
        """Store decisions; they are on disk when this returns.

        A decision on a whole image is also stored for each of its masks that has a different
        decision of its own, because a mask's own decision counts first; relabelled masks are
        accepted with their new label.

        Args:
            decisions: in their order; undone together.
            nonce: of the message; a message is not stored twice.

        Raises:
            UserError, StorageError: nothing was stored.
        """
        with self._lock:
            if self._log.decisions_of(nonce):
                return
            stored: list[ReviewDecision] = []
            known: dict[str, dict[ReviewKey, ReviewDecision]] = {}
            for one in map(self._dated_to_count, decisions):
                current = known.setdefault(one.image_id, self.current(one.image_id))
                new = [one]
                if one.label is None and one.action in _UNCHANGED:
                    stays = _UNCHANGED[one.action]
                    others = [
                        k for k, was in current.items() if k.label and was.action not in stays
                    ]
                    new = [*(one.model_copy(update=key._asdict()) for key in others), one]
                current.update((each.key, each) for each in new)
                stored += new
            self._append(stored, nonce)

    def _dated_to_count(self, decision: ReviewDecision) -> ReviewDecision:
        """Return a decision with a time after the import, and the update, that the reviewer saw.

        Of those that another machine, or a tool, has dated ahead it would not count otherwise.
        """
        since_s = self._since_s(decision.image_id)
        if decision.at_s > since_s:
            return decision
        return decision.model_copy(update={"at_s": math.nextafter(since_s, math.inf)})

    def undo(self, at_s: float, source: str, nonce: str = "") -> Undone | None:
        """Take back the last message of a source, with all its decisions.

        Returns:
            None: the source has no decision left.
        """
        with self._lock:
            known = self._log.decisions_of(nonce)
            if known:
                return Undone(tuple(one.key for one in known), overruled=False)
            last = self._log.last_message(source)
            if not last:
                return None
            keys = tuple(one.key for one in reversed(last))
            overruled = any(
                self._log.current_of_image(key.image_id)[key].source != source for key in set(keys)
            )
            undo = {"action": "undo", "at_s": at_s, "source": source}
            self._append([ReviewDecision(**key._asdict(), **undo) for key in keys], nonce)
            return Undone(keys, overruled)

    def _append(self, decisions: Sequence[ReviewDecision], nonce: str) -> None:
        self._log.append(decisions, nonce)
        self._num_seen += len(decisions)
        self._mark({one.image_id for one in decisions})

    def _mark(self, image_ids: Collection[str]) -> None:
        ids = list(image_ids)
        for image_id, row in zip(ids, self._index.rows(ids), strict=True):
            if row is not None:
                self.marks[row] = self._marks_of(image_id, row)

    def _marks_of(self, image_id: str, row: int) -> Mark:
        current = self.current(image_id)
        marks = Mark.BEGUN if current else Mark(0)
        imported = self._imported.get(image_id)
        if imported is not None:
            marks |= Mark.IMPORTED | (Mark.DONE if imported.is_complete else Mark(0))
        skips = [key for key, one in current.items() if one.action == "skip"]
        on_masks = [one for _, one in self._on_masks(image_id, row, current)]
        if skips and (None not in on_masks or not all(key.label for key in skips)):
            marks |= Mark.SKIPPED
        if not on_masks:  # the image is all that can be decided on
            on_masks = [one for key, one in current.items() if not key.label]
        actions = {"skip" if one is None else one.action for one in on_masks}
        marks |= Mark.REJECTED if "reject" in actions else Mark(0)
        marks |= Mark.RELABELLED if "relabel" in actions else Mark(0)
        marks |= Mark.DONE if actions and "skip" not in actions else Mark(0)
        return marks

    def _on_masks(
        self, image_id: str, row: int, current: Mapping[ReviewKey, ReviewDecision]
    ) -> list[tuple[int, ReviewDecision | None]]:
        """Return the category id of each mask of an image, and what was decided on it, or its skip.

        From memory: a page of the grid asks for many images, which may be of as many shards.
        """
        if not current:
            return []
        segments, part = self._index.segments, self._index.segments.of(row)
        labels, places = segments.label[part].tolist(), segments.segment_index[part].tolist()
        found: list[tuple[int, ReviewDecision | None]] = []
        for number, place in zip(labels, places, strict=True):
            name = self._index.labels[number - 1]
            mask = {"image_id": image_id, "label": name, "segment_index": place}
            one = decision_on(mask, current) or current.get(ReviewKey(**mask))
            found.append((number, one))
        return found

    def looks(self, image_id: str, row: int) -> tuple[int, ...]:
        """Return how the masks of an image look as decided; empty: all as predicted.

        It is the category id of each, in the order of the image's segments: that of its new label,
        or, negative, the predicted one where the mask is rejected: by itself, by its label, or with
        the whole image.
        """
        if not self.marks[row] & (Mark.RELABELLED | Mark.REJECTED):
            return ()
        names = self._index.labels
        return tuple(
            -predicted
            if one and one.action == "reject"
            else names.index(one.new_label) + 1
            if one and one.new_label
            else predicted
            for predicted, one in self._on_masks(image_id, row, self.current(image_id))
        )

    def progress(self) -> dict[str, int]:
        """Return the number of annotated images, and of those done, begun and skipped."""
        marks = self.marks[~self._index.failed]
        return {
            "total": len(marks),
            "done": int((marks & Mark.DONE > 0).sum()),
            "begun": int((marks & Mark.BEGUN > 0).sum()),
            "skipped": int((marks & Mark.SKIPPED > 0).sum()),
        }
