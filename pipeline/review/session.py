"""A review session: what one server knows of one run, as plain data for the pages."""

import hashlib
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from ovseg_core.images.label_colours import css_colour, label_colours
from pipeline.corrections.imports import import_names, import_states
from pipeline.corrections.log import ReviewLog
from pipeline.curation.image_lists import listed_images
from pipeline.review.decisions import Decisions, Mark
from pipeline.review.filter import (
    LISTED,
    SEARCHED,
    Embed,
    Filter,
    ImageLists,
    RowList,
    Searches,
    select,
)
from pipeline.review.index import ReviewIndex, Rows
from pipeline.review.pictures import Kind, Pictures
from pipeline.review.sort_orders import PRIORITY, Agreement, SortOrders
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages
from pipeline.storage import uris
from schemas.base import sentence
from schemas.errors import StorageError, UserError
from schemas.redact import redact
from schemas.review import ReviewDecision, ReviewKey
from schemas.score_columns import DOUBT_HELP, page_columns

_MAX_SHOWN = 200_000
"""Images in one list: a browser cannot scroll through many more."""
_VIEWS_KEPT = 32
_IMAGE_FACTS = ("image_id", "path", "status", "error_code", "height", "width", "review_priority")


class UnknownImageError(UserError):
    """The run has no image of this id."""


class ForgottenViewError(UserError):
    """A list of images that is not kept any more."""


class View(NamedTuple):
    """A list of rows that a page scrolls through.

    Attributes:
        rows: in their order.
        agreement: that it is sorted by.
        note: returns what the list or search that it shows says of an image, by its row.
    """

    rows: Rows
    agreement: Agreement | None
    note: Callable[[int], str]


class RunSnapshot:
    """A run as it was read at one time: the images that were annotated and imported by then.

    Args:
        run: at any place.
        log: the run's decisions.
        images: reads the run's images.
        only: `image_id` of the images that are shown; None: all.
    """

    def __init__(
        self, run: RunFolder, log: ReviewLog, images: RunImages, only: frozenset[str] | None
    ) -> None:
        self.read_at_s = time.monotonic()
        self.index = ReviewIndex(run, only)
        self.sort_orders = SortOrders(self.index)
        self.lists = ImageLists(self.index)
        self.searches = Searches(self.index)
        self.pictures = Pictures(self.index, images)
        # Now and not at the first request, which would wait for it.
        self.images_by_label = self.index.segments.images_by_label(len(self.index.labels))
        self.import_names = import_names(run)
        self.decisions = Decisions(log, self.index, import_states(run))
        self._views: LRUCache[str, View] = LRUCache(_VIEWS_KEPT)
        self._views_lock = Lock()

    def row(self, image_id: str) -> int:
        """Return the row of an image.

        Raises:
            UnknownImageError: the run does not have it.
        """
        row = self.index.row(image_id)
        if row is None:
            raise UnknownImageError("the run has no image of this id")
        return row

    def keep_view(self, view: View) -> str:
        """Keep a list of rows; return its name."""
        name = secrets.token_urlsafe(9)
        with self._views_lock:
            self._views[name] = view
        return name

    def view(self, name: str) -> View:
        """Return a list of rows.

        Raises:
            ForgottenViewError: it is not kept any more.
        """
        with self._views_lock:
            view = self._views.get(name)
        if view is None:
            raise ForgottenViewError("this list is not kept any more: filter again")
        return view


class ReviewSession:
    """One run under review; safe for threads.

    `refresh` replaces the snapshot as a whole, and every request works on one snapshot.

    Args:
        run: at any place.
        refresh_s: seconds after which an unfinished run is read again when a page is loaded.
        only: a list file of the images that are shown; empty: all.

    Attributes:
        images: reads the run's images.
    """

    def __init__(self, run: RunFolder, refresh_s: float = 10.0, only: str = "") -> None:
        self.run = run
        self._only = listed_images(run, only) if only else None
        self._refresh_s = refresh_s
        identity = f"{run.fingerprint} {run.folder.uri}"
        self._name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._log = ReviewLog(run)
        self._refreshing = Lock()
        self.images = RunImages(run)
        self.snapshot = RunSnapshot(run, self._log, self.images, self._only)

    @property
    def key(self) -> str:
        """Name of the run to the pages, without its place, `-`, and the generation of its images.

        A changed image keeps its `image_id` in the next generation, and has other masks.
        """
        return self._key(self.snapshot)

    def _key(self, snapshot: RunSnapshot) -> str:
        return f"{self._name}-{snapshot.index.run.generations.number}"

    def refresh(self) -> None:
        """Read decisions and imports of others, and images that were annotated or added since."""
        with self._refreshing:
            now, newest = self.snapshot, self.run.newest()
            if newest is not self.run:
                self.run, self.images = newest, RunImages(newest)
                self._log.refresh()
                self.snapshot = RunSnapshot(newest, self._log, self.images, self._only)
                return
            age_s = time.monotonic() - now.read_at_s
            is_unfinished = now.index.num_left > 0 and age_s > self._refresh_s
            if is_unfinished or import_names(self.run) != now.import_names:
                self._log.refresh()
                # A decision that the old snapshot stores meanwhile is in the log, and counts from
                # the next refresh on.
                self.snapshot = RunSnapshot(self.run, self._log, self.images, self._only)
            else:
                now.decisions.refresh()

    @cached_property
    def _models_caution(self) -> str:
        return sentence(self.images.note_on_models)

    def facts(self) -> dict[str, Any]:
        """Return the facts of the run as a whole."""
        now = self.snapshot
        labels = now.index.labels
        return {
            "name": uris.parent_and_name(self.run.folder.uri)[1],
            "place": redact(self.run.folder.uri),
            "method": self.run.info.job().method.name,
            "key": self._key(now),
            "labels": [
                {"id": number, "name": name, "colour": css_colour(colour), "images": count}
                for number, (name, colour, count) in enumerate(
                    zip(labels, label_colours(labels), now.images_by_label, strict=True), start=1
                )
            ],
            "score_columns": page_columns(),
            "doubt_help": DOUBT_HELP,
            "errors": now.index.errors,
            "compared": now.sort_orders.compared(),
            "lists": now.lists.names(),
            "has_vectors": now.index.has_vectors,
            "num_left": now.index.num_left,
            "images_notice": self.images.notice,
            "models_caution": self._models_caution,
            "upload_caution": sentence(self.images.note_on_uploads),
            "progress": now.decisions.progress(),
        }

    def open_view(self, wanted: Filter, embed: Embed | None = None) -> dict[str, Any]:
        """Make a list of images.

        Args:
            wanted: the filter.
            embed: embeds the words that are searched for; None: nothing can be searched for.

        Returns:
            Its name and length, the number of images that pass the filter, and of those that a
            search leaves out because they have no vector.

        Raises:
            UserError: there is no such sort order or list, or no image has a vector.
            WeightsError: the run's CLIP cannot be had, or may not be loaded.
        """
        now = self.snapshot
        listed = now.lists.get(wanted.listed) if wanted.listed else None
        found, num_without = None, 0
        if wanted.search and wanted.order == SEARCHED and embed is not None:
            found = now.searches.get(wanted.search, embed)
            num_without = int(np.count_nonzero(~now.index.failed)) - len(found.rows)
        order = _order(now, wanted.order, listed, found)
        rows = select(now.index, now.decisions.marks, wanted, order)
        agreement = now.sort_orders.agreement(wanted.order)
        shown = found or listed
        view = View(rows[:_MAX_SHOWN], agreement, shown.note if shown else lambda _: "")
        return {
            "view": now.keep_view(view),
            "total": len(view.rows),
            "passing": len(rows),
            "without_vector": num_without,
        }

    def items(self, view: str, start: int, limit: int) -> list[dict[str, Any]]:
        """Return a part of a list as the grid shows it.

        Raises:
            ForgottenViewError: the list is not kept any more.
        """
        now = self.snapshot
        found = now.view(view)
        items: list[dict[str, Any]] = []
        for row in found.rows[start : start + limit].tolist():
            image = now.index.image(row)
            items.append(
                {
                    **{name: image[name] for name in _IMAGE_FACTS},
                    **_card_state(now, image["image_id"], row),
                    "doubt": _known(now.index.doubt, row),
                    "note": found.note(row),
                    **_agreement_facts(row, found.agreement),
                }
            )
        return items

    def place(self, view: str, image_id: str) -> int | None:
        """Return the place of an image in a list; None: it is not in the list.

        Raises:
            ForgottenViewError: the list is not kept any more.
            UnknownImageError: the run does not have the image.
        """
        now = self.snapshot
        places = np.flatnonzero(now.view(view).rows == now.row(image_id)).tolist()
        return places[0] if places else None

    def image(self, image_id: str, order: str = PRIORITY) -> dict[str, Any]:
        """Return one image with its segments and the current decisions on it.

        Args:
            image_id: of the run.
            order: the sort order of the page; one of a comparison adds the IoU to every segment.

        Raises:
            UnknownImageError: the run does not have the image.
            UserError: there is no such comparison.
        """
        now = self.snapshot
        row = now.row(image_id)
        agreement = now.sort_orders.agreement(order)
        image = now.index.image(row)
        segments = now.index.segments_of(row) if image["status"] == "ok" else []
        for segment in segments:
            del segment["image_id"], segment["rle_counts"]
            if segment["damage"]:
                segment |= {name: 0.0 for name, value in segment.items() if not _is_json(value)}
        if agreement is not None:
            ious = agreement.of_mask[now.index.segments.of(row)].tolist()
            for segment, iou in zip(segments, ious, strict=True):
                segment["agreement"] = None if math.isnan(iou) else iou
        return {
            **{name: image[name] for name in _IMAGE_FACTS},
            "error_message": redact(image["error_message"]),
            "segments": segments,
            "doubt": _known(now.index.doubt, row),
            **_agreement_facts(row, agreement),
            **_review_state(now, image_id, row),
        }

    def picture(self, image_id: str, kind: Kind) -> bytes:
        """Return a picture of an image as predicted, see `Pictures.get`.

        Raises:
            UnknownImageError: the run does not have the image.
        """
        now = self.snapshot
        return now.pictures.get(now.row(image_id), kind)

    def tint(self, image_id: str) -> tuple[bytes, str]:
        """Return the masks in the colours of their labels as decided, and that picture's name.

        Of rejected ones the outline alone is drawn.

        Raises:
            UnknownImageError: the run does not have the image.
        """
        now = self.snapshot
        row = now.row(image_id)
        looks = now.decisions.looks(image_id, row)
        return now.pictures.get(row, "tint", looks), _tint_name(looks)

    def decide(self, decisions: Sequence[ReviewDecision], nonce: str = "") -> dict[str, Any]:
        """Store decisions; return the new state of their images.

        Args:
            decisions: of one message.
            nonce: of the message; it is not stored twice.

        Raises:
            UserError: the run does not have an image, segment or label, or was updated since it was
                read.
            StorageError: nothing was stored; the page sends the message again.
        """
        now = self.snapshot
        now.index.run.check_newest()
        rows: dict[str, int] = {}
        found = now.index.rows([one.image_id for one in decisions])
        for one, row in zip(decisions, found, strict=True):
            if row is None or not _is_known(now.index, one.key, row):
                raise UserError("the run has no such image or mask")
            if one.new_label and one.new_label not in now.index.labels:
                raise UserError(f"{one.new_label!r} is not a label of this run")
            rows[one.image_id] = row
        try:
            now.decisions.add(decisions, nonce)
        except UserError as error:
            # A missing permission or a full disk: the same message succeeds when that is mended.
            raise StorageError(str(error)) from error
        return _changed(now, rows)

    def undo(self, at_s: float, source: str, nonce: str = "") -> dict[str, Any]:
        """Take back a source's last message; return its key and the new state of its images."""
        now = self.snapshot
        undone = now.decisions.undo(at_s, source, nonce)
        if undone is None:
            return {"undone": None}
        image_ids = list(dict.fromkeys(key.image_id for key in undone.keys))
        found = zip(image_ids, now.index.rows(image_ids), strict=True)
        changed = _changed(now, {image_id: row for image_id, row in found if row is not None})
        return {"undone": undone.keys[0]._asdict(), "overruled": undone.overruled, **changed}


def _order(now: RunSnapshot, name: str, listed: RowList | None, found: RowList | None) -> Rows:
    """Return the rows of a list, of a search, of both or of the run, in a sort order."""
    if found is None and listed is not None and name == LISTED:
        return listed.rows
    order = now.sort_orders.rows(name) if found is None else found.rows
    return order if listed is None else order[np.isin(order, listed.rows)]


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _mark_names(now: RunSnapshot, row: int) -> list[str]:
    return [str(mark.name).lower() for mark in Mark(int(now.decisions.marks[row]))]


def _card_state(now: RunSnapshot, image_id: str, row: int) -> dict[str, Any]:
    """Return what decisions change on the card of an image.

    `labels` are those that it has now: category id, highest score, number of masks, the category
    id that was predicted, and how many of the masks are rejected.
    """
    segments = now.index.segments
    part = segments.of(row)
    predicted = segments.label[part].tolist()
    looks = now.decisions.looks(image_id, row)
    scores: dict[tuple[int, int], list[float]] = {}
    for look, was, score in zip(
        looks or predicted, predicted, segments.score[part].tolist(), strict=True
    ):
        scores.setdefault((abs(look), was), []).append(score)
    ordered = sorted(scores.items(), key=lambda pair: (-max(pair[1]), pair[0]))
    rejected = Counter(-look for look in looks if look < 0)
    return {
        "labels": [
            [label, max(all_), len(all_), was, rejected[was] * (label == was)]
            for (label, was), all_ in ordered
        ],
        "tint": _tint_name(looks),
        "marks": _mark_names(now, row),
    }


def _tint_name(looks: tuple[int, ...]) -> str:
    """Return a name of a picture whose masks look so; empty: as predicted."""
    return hashlib.sha256(repr(looks).encode()).hexdigest()[:12] if looks else ""


def _review_state(now: RunSnapshot, image_id: str, row: int) -> dict[str, Any]:
    """Return the marks of an image and the current decisions on it."""
    fields = {"label", "segment_index", "action", "new_label"}
    current = now.decisions.current(image_id).values()
    return {
        "image_id": image_id,
        **_card_state(now, image_id, row),
        "decisions": [one.model_dump(include=fields) for one in current],
    }


def _changed(now: RunSnapshot, rows: dict[str, int]) -> dict[str, Any]:
    images = [_review_state(now, image_id, row) for image_id, row in rows.items()]
    return {"images": images, "progress": now.decisions.progress()}


def _agreement_facts(row: int, agreement: Agreement | None) -> dict[str, Any]:
    """Return the facts of an image that an order of a comparison changes or adds."""
    if agreement is None:
        return {}
    return {
        "review_priority": float(agreement.priority[row]),
        "doubt": _known(agreement.doubt, row),
        "agreement": _known(agreement.of_image, row),
    }


def _known(values: NDArray[Any], row: int) -> float | None:
    """Return an image's value; None: it has none."""
    value = float(values[row])
    return None if math.isnan(value) else value


def _is_known(index: ReviewIndex, key: ReviewKey, row: int) -> bool:
    """Return whether an image has the label and the segment of a key."""
    if key.label is None:
        return key.segment_index is None
    if key.label not in index.labels:
        return False
    segments, part = index.segments, index.segments.of(row)
    is_known = segments.label[part] == index.labels.index(key.label) + 1
    if key.segment_index is not None:
        # The place among the rows is not the index: small segments may have been dropped.
        is_known &= segments.segment_index[part] == key.segment_index
    return bool(is_known.any())
