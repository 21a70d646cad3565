"""Single rows of a column of a Parquet file, read by parts of the file.

The first image of some rows fetches the pages that lie side by side there, and unpacks them; the
next images are taken from memory. Threads that want the same pages wait for the one that reads
them. What is held is bounded for the process, whatever the file says of itself.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

from pipeline.collection.archives.shared import table_pages
from pipeline.collection.archives.shared.members import ReadPart
from pipeline.collection.archives.shared.table_footer import (
    Footer,
    Leaf,
    RowGroup,
    TableError,
    group_of,
)
from pipeline.collection.archives.shared.table_pages import DICTIONARY, Page, Values

FETCHED_BYTES = 8 << 20
"""By one request, of pages that lie side by side; a larger page is fetched alone."""
HELD_BYTES = 64 << 20
"""Of unpacked pages in the process; the last two (a dictionary and what needs it) stay anyway."""
_LEAST_HELD = 2
_HEADER_BYTES, _MAX_HEADER_BYTES = 1 << 14, 1 << 20
_MAX_HEADERS = 1 << 18
"""Pages of a row group in one column."""
_LARGE_BYTES = 32 << 20
_ONE_LARGE_PAGE = threading.Lock()


class CutOffError(ValueError):
    """The file ends before a page does."""


class _HeldPages:
    """Unpacked pages of all tables that this process reads, those that were used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: OrderedDict[tuple[object, int], Values] = OrderedDict()
        self._bytes = 0

    def get(self, reader: object, place: int) -> Values | None:
        """Return the values of the page at a place of a file; None: they are not held."""
        with self._lock:
            found = self._pages.get((reader, place))
            if found is not None:
                self._pages.move_to_end((reader, place))
            return found

    def hold(self, reader: object, place: int, values: Values) -> None:
        """Hold the values of a page, and let others go."""
        with self._lock:
            before = self._pages.pop((reader, place), None)
            self._bytes += values.held_bytes - (before.held_bytes if before else 0)
            self._pages[reader, place] = values
            while self._bytes > HELD_BYTES and len(self._pages) > _LEAST_HELD:
                self._bytes -= self._pages.popitem(last=False)[1].held_bytes


_HELD = _HeldPages()


class _KnownPage(NamedTuple):
    """A page of a row group, whose header was read."""

    first_row: int
    """In the group."""
    place: int
    """Of its header."""
    page: Page

    @property
    def end(self) -> int:
        """Where the next page's header begins."""
        return self.place + self.page.header_bytes + self.page.packed

    @property
    def num_rows(self) -> int:
        """Rows that it has."""
        return self.page.num_values if self.page.is_data else 0


class _Window:
    """A part of a column that was fetched."""

    def __init__(self, read: ReadPart, end: int) -> None:
        self._read, self._end = read, end
        self._begin, self._data = 0, b""

    def part(self, begin: int, num_bytes: int, least_bytes: int = 0) -> bytes:
        """Return a part, fewer bytes at the end; at least so many are fetched, where it is new."""
        num_bytes = min(num_bytes, self._end - begin)
        if not self.has(begin, num_bytes):
            self._data = b""
            self._data = self._read(begin, min(max(num_bytes, least_bytes), self._end - begin))
            self._begin = begin
        return self._data[begin - self._begin : begin - self._begin + num_bytes]

    def head(self, begin: int) -> bytes:
        """Return what is here from a place on, as much as a header has."""
        first = begin - self._begin
        return self._data[first : first + _HEADER_BYTES] if first >= 0 else b""

    def has(self, begin: int, num_bytes: int) -> bool:
        """Return whether a part is here."""
        return self._begin <= begin and begin + num_bytes <= self._begin + len(self._data)


class ColumnReader:
    """Reads the rows of one column; safe for threads.

    Args:
        read: of the file.
        footer: of the file.
        column: texts or bytes, not repeated.

    Raises:
        TableError: the column does not lie in the file.
    """

    def __init__(self, read: ReadPart, footer: Footer, column: Leaf) -> None:
        self._read, self._column = read, column
        self._groups: Sequence[RowGroup] = footer.groups(column)
        self._pages: dict[int, list[_KnownPage]] = {}
        self._locks: dict[int, threading.Lock] = {}

    def value(self, row: int) -> bytes | None:
        """Return the value of a row of the table; None: null.

        Raises:
            CutOffError, PageTooLargeError, TableError: it cannot be read.
            IndexError: there is no such row.
            ImageError: the store does not give it.
        """
        group = group_of(self._groups, row)
        if group is None:
            raise IndexError
        row -= group.first_row
        with self._locks.setdefault(group.first_row, threading.Lock()):
            window = _Window(self._read, group.chunk.first_page + group.chunk.packed)
            known = self._page_of(group, row, window)
            values = _HELD.get(self, known.place) or self._unpacked(group, known, window)
        return values.at(row - known.first_row)

    def _page_of(self, group: RowGroup, row: int, window: _Window) -> _KnownPage:
        """Return the page of a row; the headers of those before it are read once."""
        pages = self._pages.setdefault(group.first_row, [])
        if not pages or row >= pages[-1].first_row + pages[-1].num_rows:
            self._find(group, row, window)
        return pages[bisect_right(pages, row, key=lambda page: page.first_row) - 1]

    def _find(self, group: RowGroup, row: int, window: _Window) -> None:
        """Read headers up to the page of a row."""
        pages, end = self._pages[group.first_row], group.chunk.first_page + group.chunk.packed
        place, first_row, is_near = group.chunk.first_page, 0, True
        if pages:
            place, first_row = pages[-1].end, pages[-1].first_row + pages[-1].num_rows
            is_near = row < first_row + pages[-1].num_rows
        is_small = group.chunk.packed <= FETCHED_BYTES
        for _ in range(_MAX_HEADERS):
            if row < first_row:
                return
            if place >= end:
                raise TableError(f"a row group with fewer rows than the {group.num_rows:,} it says")
            ahead = FETCHED_BYTES if is_small or is_near else _HEADER_BYTES
            known = _KnownPage(first_row, place, _header(window, place, ahead))
            if pages and not pages[-1].num_rows:
                pages.pop()  # a page without rows is looked for by nobody
            pages.append(known)
            place, first_row, is_near = known.end, first_row + known.num_rows, False
        raise TableError(f"a row group of more than {_MAX_HEADERS:,} pages")

    def _unpacked(self, group: RowGroup, known: _KnownPage, window: _Window) -> Values:
        """Return the values of a page; hold them, and those of the pages that came with it."""
        found = self._values(group, known, window)
        _HELD.hold(self, known.place, found)
        held_bytes, pages = found.held_bytes, self._pages[group.first_row]
        while held_bytes < HELD_BYTES // 2:
            try:
                page = table_pages.page_at(window.head(known.end))
                following = _KnownPage(known.first_row + known.num_rows, known.end, page)
                if not window.has(following.place, following.end - following.place):
                    break
                values = self._values(group, following, window)
            except (IndexError, ValueError):  # whoever wants these rows is told
                break
            if pages[-1] == known:
                pages.append(following)
            _HELD.hold(self, following.place, values)
            held_bytes, known = held_bytes + values.held_bytes, following
        return found

    def _values(self, group: RowGroup, known: _KnownPage, window: _Window) -> Values:
        page = known.page
        table_pages.check_size(page)
        is_large = max(page.packed, page.unpacked) > _LARGE_BYTES
        dictionary = self._dictionary(group, window) if page.needs_dictionary else None
        with _ONE_LARGE_PAGE if is_large else nullcontext():
            begin = known.place + page.header_bytes
            data = window.part(begin, page.packed, FETCHED_BYTES)
            if len(data) < page.packed:
                raise CutOffError
            level = self._column.most_level
            return table_pages.values(page, data, group.chunk.compression, level, dictionary)

    def _dictionary(self, group: RowGroup, window: _Window) -> Values:
        place = group.chunk.first_page
        held = _HELD.get(self, place)
        if held is None:
            known = _KnownPage(0, place, _header(window, place, _HEADER_BYTES))
            if known.page.kind != DICTIONARY:
                raise TableError("a row group without the dictionary that it needs")
            held = self._values(group, known, window)
            _HELD.hold(self, place, held)
        return held


def _header(window: _Window, place: int, ahead_bytes: int) -> Page:
    """Return the header of a page."""
    size = _HEADER_BYTES
    while True:
        data = window.part(place, size, ahead_bytes)
        try:
            return table_pages.page_at(data)
        except IndexError as error:
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise CutOffError from error
            size *= 8
