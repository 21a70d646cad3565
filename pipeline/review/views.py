"""What is shown in the grid: a filter makes a list of rows that stands while one scrolls in it."""

import secrets
from collections import OrderedDict
from threading import Lock
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.review.decisions import BEGUN, DONE, REJECTED, RELABELLED, SKIPPED
from pipeline.review.index import ReviewIndex, Rows
from pipeline.review.orders import DOUBT, Agreement
from schemas.base import Frozen
from schemas.records import Share

State = Literal["all", "todo", "done", "rejected", "relabelled", "skipped"]
_KEPT_VIEWS = 32


class Filter(Frozen):
    """Which images to show."""

    label: str = ""
    """Images with a mask of this label; empty: any."""
    low: Share = 0.0
    """Images with a mask (of the label, if one is given) whose mean probability is `low` or more"""
    high: Share = 1.0
    """and `high` or less, the same mask."""
    state: State = "all"
    """By what was decided."""
    failed: Annotated[str, Field(max_length=64)] = ""
    """Empty: annotated images. `any`: failed ones; else those with this error code."""
    text: Annotated[str, Field(max_length=200)] = ""
    """Part of the path, any case."""
    order: Annotated[str, Field(max_length=200)] = DOUBT
    """Of `Orders`."""


def select(index: ReviewIndex, marks: NDArray[np.uint8], wanted: Filter, order: Rows) -> Rows:
    """Return the rows that pass the filter, in an order of all rows."""
    if wanted.failed:
        keep = index.failed if wanted.failed == "any" else index.with_error(wanted.failed)
    else:
        keep = ~index.failed
    if wanted.label or wanted.low > 0 or wanted.high < 1:
        keep = keep & _with_segment(index, wanted)
    if wanted.text:
        keep = keep & index.named(wanted.text)
    if wanted.state != "all":
        keep = keep & _in_state(marks, wanted.state)
    return order[keep[order]]


def _with_segment(index: ReviewIndex, wanted: Filter) -> NDArray[np.bool_]:
    segments = index.segments
    fits = (segments.score >= wanted.low) & (segments.score <= wanted.high)
    if wanted.label:
        known = wanted.label in index.labels
        fits &= segments.label == (index.labels.index(wanted.label) + 1 if known else -1)
    found = np.zeros(len(index), bool)
    found[segments.row[fits]] = True
    return found


def _in_state(marks: NDArray[np.uint8], state: State) -> NDArray[np.bool_]:
    if state == "todo":
        return marks & (DONE | SKIPPED) == 0
    bit = {"done": DONE, "rejected": REJECTED, "relabelled": RELABELLED, "skipped": SKIPPED}
    return marks & bit[state] > 0


class View(NamedTuple):
    """A list of rows, and the other run that its order comes from, if there is one."""

    rows: Rows
    agreement: Agreement | None


class Views:
    """The lists that pages scroll in; the oldest are forgotten, and asked for anew."""

    def __init__(self) -> None:
        """Begin with none."""
        self._views: OrderedDict[str, View] = OrderedDict()
        self._lock = Lock()

    def add(self, view: View) -> str:
        """Keep a list; return its name."""
        name = secrets.token_urlsafe(9)
        with self._lock:
            self._views[name] = view
            while len(self._views) > _KEPT_VIEWS:
                self._views.popitem(last=False)
        return name

    def find(self, name: str) -> View | None:
        """Return a list; None where it was forgotten."""
        with self._lock:
            if name in self._views:
                self._views.move_to_end(name)
            return self._views.get(name)


def progress(marks: NDArray[np.uint8], index: ReviewIndex) -> dict[str, int]:
    """Return how far the review is: annotated images, those done, begun and skipped."""
    ok = ~index.failed
    return {
        "total": int(ok.sum()),
        "done": int((marks[ok] & DONE > 0).sum()),
        "begun": int((marks[ok] & BEGUN > 0).sum()),
        "skipped": int((marks[ok] & SKIPPED > 0).sum()),
    }
