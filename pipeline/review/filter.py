"""Which images the grid shows: the filter that the page sends, and the rows that pass it.

A filter can name a list in the run folder, which `ovseg sample` and its kin have written. A list is
read when it is first chosen, and again when it was written again. A filter can also hold words to
search for: the images are ranked by them, as `ovseg search` does.
"""

import math
from collections.abc import Callable
from threading import Condition
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from pydantic import Field, create_model

from pipeline.curation.image_lists import lists_of, read_run_list
from pipeline.curation.with_vectors import ids_and_work
from pipeline.review.decisions import Mark
from pipeline.review.index import ReviewIndex, Rows
from pipeline.review.sort_orders import PRIORITY
from schemas.base import Frozen
from schemas.errors import UserError
from schemas.score_columns import SCORE_COLUMNS

_FILTERABLE = tuple(name for name, column in SCORE_COLUMNS.items() if column.filterable)
LISTED = "listed"
"""The sort order of a list."""
SEARCHED = "searched"
"""The sort order of a search: by falling cosine with the words."""
_LISTS_KEPT = 8
_SEARCHES_KEPT = 8
State = Literal["all", "todo", "done", "rejected", "relabelled", "skipped"]


class Filter(Frozen):
    """Which images to show; `ScoreFilter` adds a lowest and a highest value of score columns."""

    label: str = ""
    """Images with a mask of this label; empty: any."""
    state: State = "all"
    """By what was decided."""
    failed: Annotated[str, Field(max_length=64)] = ""
    """Empty: annotated images. `any`: failed ones; else those with this error code."""
    text: Annotated[str, Field(max_length=200)] = ""
    """Part of the path, upper or lower case."""
    listed: Annotated[str, Field(max_length=64)] = ""
    """Images of this list of the run folder (`ImageLists`); empty: any."""
    search: Annotated[str, Field(max_length=200)] = ""
    """Words that images with a vector are ranked by, in the order `searched`; empty: none."""
    order: Annotated[str, Field(max_length=200)] = PRIORITY
    """A name of `SortOrders`, `listed`: as in the list, or `searched`: as the words rank them."""

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return (lowest, highest) value by score column, of the columns that are limited."""
        limits: dict[str, tuple[float, float]] = {}
        for name in _FILTERABLE:
            whole = low, high = _whole_range(name)
            given = getattr(self, f"{name}_low", low), getattr(self, f"{name}_high", high)
            if given != whole:
                limits[name] = given
        return limits


def _whole_range(name: str) -> tuple[float, float]:
    column = SCORE_COLUMNS[name]
    return column.low, math.inf if column.high is None else column.high


def _score_fields() -> dict[str, Any]:
    """Return the fields `NAME_low` and `NAME_high` of every filterable score column."""
    fields: dict[str, Any] = {}
    for name in _FILTERABLE:
        low, high = _whole_range(name)
        kind = Annotated[float, Field(ge=low, le=high)]
        fields |= {f"{name}_low": (kind, low), f"{name}_high": (kind, high)}
    return fields


ScoreFilter = create_model("ScoreFilter", __base__=Filter, **_score_fields())
"""The filter with the limits of the score columns: one mask of an image (of the label, if one is
given) must lie within all of them."""


def select(index: ReviewIndex, marks: NDArray[np.uint8], wanted: Filter, order: Rows) -> Rows:
    """Return the rows that pass the filter, in the order of `order`.

    Args:
        index: the run's images.
        marks: of every image.
        wanted: the filter; its list is `order`'s matter.
        order: all rows, or those of a list.
    """
    if wanted.failed:
        keep = index.failed if wanted.failed == "any" else index.with_error(wanted.failed)
    else:
        keep = ~index.failed
    limits = wanted.limits()
    if wanted.label or limits:
        segments = index.segments
        fits = np.ones(len(segments.row), bool)
        for name, (low, high) in limits.items():
            fits &= (segments.scores[name] >= low) & (segments.scores[name] <= high)
        if wanted.label:
            known = wanted.label in index.labels
            fits &= segments.label == (index.labels.index(wanted.label) + 1 if known else -1)
        has_segment = np.zeros(len(index), bool)
        has_segment[segments.row[fits]] = True
        keep = keep & has_segment
    if wanted.text:
        keep = keep & index.with_path(wanted.text)
    if wanted.state == "todo":
        keep = keep & (marks & (Mark.DONE | Mark.SKIPPED) == 0)
    elif wanted.state != "all":
        keep = keep & (marks & Mark[wanted.state.upper()] > 0)
    return order[keep[order]]


class RowList(NamedTuple):
    """A list as the page shows it.

    Attributes:
        rows: of the images that the run has, in the list's order.
        note: returns what the list says of an image, by its row.
    """

    rows: Rows
    note: Callable[[int], str]


class ImageLists:
    """The lists of a run; safe for threads.

    Args:
        index: the run's images.
    """

    def __init__(self, index: ReviewIndex) -> None:
        self._index = index
        kept: LRUCache[tuple[str, int], RowList] = LRUCache(_LISTS_KEPT)
        self._read: Callable[[str, int], RowList] = cached(
            kept, key=lambda name, size: (name, size), condition=Condition()
        )(lambda name, size: self._read_list(name))

    def names(self) -> list[str]:
        """Return the names of all lists that are there now."""
        return list(lists_of(self._index.run))

    def get(self, name: str) -> RowList:
        """Return a list.

        Raises:
            UserError: there is none of this name, or it cannot be read.
        """
        known = lists_of(self._index.run)
        # Looked up in the listing: a name from a browser never becomes a path.
        if name not in known:
            raise UserError(f"the list {name} is not in the run folder (any more)")
        return self._read(name, known[name])

    def _read_list(self, name: str) -> RowList:
        notes = read_run_list(self._index.run, name)
        rows = self._index.rows_of_paths(list(notes))
        pairs = zip(rows.tolist(), notes.values(), strict=True)
        by_row = {row: note for row, note in pairs if row >= 0}
        return RowList(rows[rows >= 0], lambda row: by_row.get(row, ""))


Embed = Callable[[str], NDArray[np.float32]]
"""Returns the unit vector (D,) of a text in CLIP's joint space."""


class Searches:
    """The images of a run that have a CLIP vector, ranked by words; safe for threads.

    Args:
        index: the run's images.
    """

    def __init__(self, index: ReviewIndex) -> None:
        self._index = index
        kept: LRUCache[str, RowList] = LRUCache(_SEARCHES_KEPT)
        self._rank: Callable[[str, Embed], RowList] = cached(
            kept, key=lambda words, embed: words, condition=Condition()
        )(self._ranked)

    def get(self, words: str, embed: Embed) -> RowList:
        """Return the images by falling cosine with words, each with its cosine as the note.

        The vectors are read shard by shard and not kept.

        Args:
            words: such as `red fish`.
            embed: may load CLIP's text encoder, which takes seconds.

        Raises:
            UserError: no image has a vector, or there are no words.
            WeightsError: the run's CLIP cannot be had, or may not be loaded.
        """
        return self._rank(words.strip(), embed)

    def _ranked(self, words: str, embed: Embed) -> RowList:
        vector_D = embed(words)
        ids, cosines = ids_and_work(
            self._index.run, lambda some_ND: some_ND.astype(np.float32) @ vector_D
        )
        rows = self._index.rows_of_ids(ids)
        cosine_of = np.full(len(self._index), np.nan, np.float32)
        cosine_of[rows[rows >= 0]] = cosines[rows >= 0]
        order = np.lexsort((np.arange(len(cosine_of)), -cosine_of))  # NaN comes last
        ranked = order[~np.isnan(cosine_of[order])].astype(np.int32)
        return RowList(ranked, lambda row: f"cosine {cosine_of[row]:.3f}")
