"""What the page is told of a run: its index, masks, pictures and decisions, as plain data."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.collection.overlay import hex_colour
from pipeline.corrections.layer import import_names, imported_at_s
from pipeline.corrections.log import ReviewLog
from pipeline.review.decisions import (
    BEGUN,
    DONE,
    IMPORTED,
    REJECTED,
    RELABELLED,
    SKIPPED,
    Decisions,
)
from pipeline.review.index import ReviewIndex
from pipeline.review.masks import Masks
from pipeline.review.orders import DOUBT, Agreement, Orders
from pipeline.review.pictures import Pictures
from pipeline.review.views import Filter, View, Views, progress, select
from pipeline.run.folder import RunFolder
from pipeline.storage import uris
from schemas.errors import StorageError, UserError
from schemas.redact import redact
from schemas.review import ReviewDecision, ReviewKey

_REFRESH_S = 10.0
_MOST_SHOWN = 200_000
"""Images in one list: a browser cannot scroll in much more."""
_MARKS = {
    "done": DONE, "rejected": REJECTED, "relabelled": RELABELLED, "skipped": SKIPPED,
    "begun": BEGUN, "imported": IMPORTED,
}  # fmt: skip
_IMAGE_FACTS = ("image_id", "path", "status", "error_code", "height", "width", "review_priority")


class Table:
    """One run as it was read at one time; safe for threads.

    Args:
        run: at any place.
        log: the decisions on it.
        key: names the run to the pages.
    """

    def __init__(self, run: RunFolder, log: ReviewLog, key: str) -> None:
        """Read the index, the names of imports, and what was decided so far."""
        self._run, self._key = run, key
        self._job = run.info.job()
        self._views = Views()
        self._read_at = time.monotonic()
        self.index = ReviewIndex(run)
        self.orders = Orders(self.index)
        self.masks = Masks(self.index)
        self.pictures = Pictures(self.index, self.masks, self._job.image)
        # Now, not at the first request: a page should not wait for it.
        self._images_by_label = self.index.segments.images_by_label(len(self.index.labels))
        self._imports = import_names(run)
        self.decisions = Decisions(log, self.index, imported_at_s(run))

    def is_stale(self) -> bool:
        """Tell whether images may have been annotated, or reviews imported, since it was read."""
        since_s = time.monotonic() - self._read_at
        return (self.index.num_left > 0 and since_s > _REFRESH_S) or (
            import_names(self._run) != self._imports
        )

    def facts(self) -> dict[str, Any]:
        """Return what the page says about the run as a whole."""
        return {
            "name": uris.parent_and_name(self._run.folder.uri)[1],
            "place": redact(self._run.folder.uri),
            "method": self._job.method.name,
            "key": self._key,
            "labels": [
                {"id": number, "name": name, "colour": hex_colour(number), "images": count}
                for number, (name, count) in enumerate(
                    zip(self.index.labels, self._images_by_label, strict=True), start=1
                )
            ],
            "errors": self.index.errors,
            "compared": self.orders.compared(),
            "num_left": self.index.num_left,
            "progress": progress(self.decisions.marks, self.index),
        }

    def open_view(self, wanted: Filter) -> dict[str, Any]:
        """Return the name of a list of images, its length, and how many pass the filter."""
        rows = select(self.index, self.decisions.marks, wanted, self.orders.rows(wanted.order))
        view = View(rows[:_MOST_SHOWN], self.orders.agreement(wanted.order))
        return {"view": self._views.add(view), "total": len(view.rows), "passing": len(rows)}

    def items(self, view: str, start: int, limit: int) -> list[dict[str, Any]] | None:
        """Return a part of a list as the grid shows it; None: the list was forgotten."""
        found = self._views.find(view)
        if found is None:
            return None
        rows = found.rows[start : start + limit].tolist()
        return [{**self._item(row), **_both(row, found.agreement)} for row in rows]

    def place(self, view: str, row: int) -> int | None:
        """Return where an image stands in a list, -1: nowhere; None: the list was forgotten."""
        found = self._views.find(view)
        if found is None:
            return None
        return next(iter(np.flatnonzero(found.rows == row).tolist()), -1)

    def _item(self, row: int) -> dict[str, Any]:
        image = self.index.image(row)
        part = self.index.segments.of(row)
        segments = self.index.segments
        best: dict[int, list[float]] = {}
        pairs = zip(segments.label[part].tolist(), segments.score[part].tolist(), strict=True)
        for label, score in pairs:
            best.setdefault(label, []).append(score)
        ordered = sorted(best.items(), key=lambda pair: (-max(pair[1]), pair[0]))
        return {
            **{name: image[name] for name in _IMAGE_FACTS},
            "labels": [[label, max(scores), len(scores)] for label, scores in ordered],
            "marks": self._marks(row),
        }

    def _marks(self, row: int) -> list[str]:
        marks = int(self.decisions.marks[row])
        return [name for name, bit in _MARKS.items() if marks & bit]

    def look(self, row: int, order: str = DOUBT) -> dict[str, Any]:
        """Return one image with its segments and what was decided of each.

        Args:
            row: of the index.
            order: one that comes from a comparison adds its IoU to every segment.
        """
        agreement = self.orders.agreement(order)
        image = self.index.image(row)
        segments = self.masks.of(row) if image["status"] == "ok" else []
        shown = [{k: v for k, v in one.items() if k != "rle_counts"} for one in segments]
        if agreement is not None:
            known = agreement.of_mask[self.index.segments.of(row)].tolist()
            for one, iou in zip(shown, known, strict=True):
                one["agreement"] = _or_none(iou)
        return {
            **{name: image[name] for name in _IMAGE_FACTS},
            "error_message": redact(image["error_message"]),
            "segments": shown,
            **_both(row, agreement),
            **self._said(image["image_id"], row),
        }

    def _said(self, image_id: str, row: int) -> dict[str, Any]:
        standing = self.decisions.standing(image_id).values()
        return {
            "image_id": image_id,
            "marks": self._marks(row),
            "decisions": [
                one.model_dump(include={"label", "segment_index", "action", "new_label"})
                for one in standing
            ],
        }

    def decide(self, decisions: Sequence[ReviewDecision], nonce: str = "") -> dict[str, Any]:
        """Store decisions; return how the images stand now.

        Raises:
            UserError: an image, segment or label that the run does not have.
            StorageError: they could not be stored, none of them; worth another try.
        """
        found = self.index.rows([one.image_id for one in decisions])
        rows: dict[str, int] = {}
        for one, row in zip(decisions, found, strict=True):
            if row is None or not self._is_known(one.key, row):
                raise UserError("no such image or mask in this run")
            if one.new_label and one.new_label not in self.index.labels:
                raise UserError(f"{one.new_label!r} is no label of this run")
            rows[one.image_id] = row
        try:
            self.decisions.add(decisions, nonce)
        except UserError as error:  # no permission, a full disk: mended by someone, not by the page
            raise StorageError(str(error)) from error
        return self._standing(rows)

    def undo(self, at_s: float, source: str, nonce: str = "") -> dict[str, Any]:
        """Take a source's last message back; return what it was and how the images stand now."""
        undone = self.decisions.undo(at_s, source, nonce)
        if undone is None:
            return {"undone": None}
        image_ids = list(dict.fromkeys(key.image_id for key in undone.keys))
        found = zip(image_ids, self.index.rows(image_ids), strict=True)
        standing = self._standing({image_id: row for image_id, row in found if row is not None})
        return {"undone": undone.keys[0]._asdict(), "overruled": undone.overruled, **standing}

    def _standing(self, rows: dict[str, int]) -> dict[str, Any]:
        images = [self._said(image_id, row) for image_id, row in rows.items()]
        return {"images": images, "progress": progress(self.decisions.marks, self.index)}

    def _is_known(self, key: ReviewKey, row: int) -> bool:
        if key.label is None:
            return key.segment_index is None
        if key.label not in self.index.labels:
            return False
        segments = self.index.segments
        labels = segments.label[segments.of(row)].tolist()
        number = self.index.labels.index(key.label) + 1
        if key.segment_index is None:
            return number in labels
        # The place among the rows is not the index: small segments may have been dropped.
        return any(
            one["segment_index"] == key.segment_index and one["category_id"] == number
            for one in self.masks.of(row)
        )


def _both(row: int, agreement: Agreement | None) -> dict[str, Any]:
    """Return what an image gets where another run has a say in the order."""
    if agreement is None:
        return {}
    return {
        "review_priority": float(agreement.doubt[row]),
        "agreement": _or_none(float(agreement.of_image[row])),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
