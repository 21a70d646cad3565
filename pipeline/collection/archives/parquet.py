"""Parquet tables with the bytes of images in a column, as Hugging Face's `datasets` writes them.

A row is a member. Its place is that of the table's footer, and its number with nine digits that
change with the footer and the column: so no image is read from another table than the one that was
listed. What lies where in the file is looked up in the footer again, once a table.

A member is named by the table if its names ascend, as those of a folder do; else the row stands in
front (`0000012-cat.jpg`), so that a shard of the run, which is sorted by name, is a few row groups.
"""

import logging
import re
import threading
from collections.abc import Iterator
from itertools import pairwise

from cachetools import TTLCache, cached
from cachetools.keys import hashkey

from pipeline.collection.archives.shared.members import (
    ArchiveError,
    Member,
    ReadPart,
    checked_size,
    clean_name,
    cut_off,
    replaced,
)
from pipeline.collection.archives.shared.range_file import RangeFile
from pipeline.collection.archives.shared.table_footer import (
    END_BYTES,
    MAGIC,
    MAX_FOOTER_BYTES,
    Footer,
    ImageColumn,
    Leaf,
    TableError,
)
from pipeline.collection.archives.shared.table_pages import MAX_PAGE_BYTES, PageTooLargeError
from pipeline.collection.archives.shared.table_reader import ColumnReader, CutOffError
from pipeline.storage.uris import ArchiveMember
from schemas.errors import ErrorCode, ImageError
from schemas.redact import redact
from schemas.untrusted import printable

logger = logging.getLogger(__name__)
ENDINGS = (".parquet",)

_ENCRYPTED = b"PARE"
_FIRST_BYTES = 1 << 16
"""Of a file's end: most footers are shorter."""
_CHECKSUM_RANGE = 10**9
_ROW_DIGITS = 7
_MAX_NAME = 512
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_PARTS = re.compile(r"[/\\]")
_KNOWN_TABLES, _KNOWN_FOR_S = 64, 300
"""Footers that a process keeps, and for how long: a table may be replaced."""


def has_uris(file: RangeFile) -> bool:
    """Return whether a table is a list of images: it has a column `uri`.

    Raises:
        ArchiveError: it is no table.
    """
    return _footer_of(file).is_list


def members(file: RangeFile) -> Iterator[Member]:
    """Yield the rows.

    Raises:
        ArchiveError: it is no table, is cut off, or has no column of images.
    """
    footer = _footer_of(file)
    if footer.is_list:
        raise ArchiveError(
            f"{redact(file.uri)} has a column `uri`: it is a list of images; give it alone, as "
            "--images"
        )
    try:
        column = footer.image_column(file.column)
        footer.groups(column.images)
    except TableError as error:
        raise ArchiveError(
            f"{redact(file.uri)} cannot be read as a table of images: {error}"
        ) from error
    checksum = footer.checksum(column.images)
    version = file.etag or format(checksum, "x")
    for row, name in enumerate(_names(file, footer, column)):
        place = row * _CHECKSUM_RANGE + checksum
        yield Member(name, footer.begin, place, None, f"{version}@{row}", is_image=True)


def _footer_of(file: RangeFile) -> Footer:
    """Return the footer of a table that is listed."""
    shown, size = redact(file.uri), file.size_bytes
    end = file.part(max(0, size - _FIRST_BYTES), _FIRST_BYTES)
    length = int.from_bytes(end[-END_BYTES:-4], "little")
    begin = size - END_BYTES - length
    if end[-4:] == _ENCRYPTED:
        raise ArchiveError(f"{shown} is an encrypted Parquet file: write it without encryption")
    if len(end) < END_BYTES or end[-4:] != MAGIC or begin < len(MAGIC):
        raise ArchiveError(
            f"{shown} cannot be read as a Parquet file: it does not end as one; it is cut off, or "
            "none"
        )
    if length > MAX_FOOTER_BYTES:
        raise ArchiveError(
            f"{shown}: its list of columns has {length:,} bytes, expected at most "
            f"{MAX_FOOTER_BYTES:,}: write it with larger row groups, or as several files"
        )
    if length + END_BYTES > len(end):
        end = file.part(begin, length + END_BYTES)
    try:
        return Footer(end[-END_BYTES - length : -END_BYTES], begin)
    except TableError as error:
        raise ArchiveError(f"{shown} cannot be read as a Parquet file: {error}") from error


def _names(file: RangeFile, footer: Footer, column: ImageColumn) -> Iterator[str]:
    """Yield the names of a table's rows, see the module."""
    given = _given_names(file, footer, column.names) if column.names else [""] * footer.num_rows
    whole = [_with_ending(_whole_name(text), column.ending) for text in given]
    if all(whole) and all(one < other for one, other in pairwise(whole)):
        yield from whole
        return
    for row, text in enumerate(given):
        number, last = f"{row:0{_ROW_DIGITS}}", _with_ending(_last_name(text), column.ending)
        yield f"{number}-{last}" if last else f"{number}{column.ending}"


def _given_names(file: RangeFile, footer: Footer, names: Leaf) -> list[str]:
    """Return what the table says of its rows' names; nothing where that cannot be read."""
    try:
        reader = ColumnReader(file.part, footer, names)
        return [_as_text(reader.value(row)) for row in range(footer.num_rows)]
    except (TableError, PageTooLargeError, CutOffError) as error:
        logger.warning(
            "%s: its column %s cannot be read (%s): the images are named by their rows",
            redact(file.uri), names.shown, error,
        )  # fmt: skip
        return [""] * footer.num_rows


def _as_text(value: bytes | None) -> str:
    if value is None or len(value) > _MAX_NAME:
        return ""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return ""


def _whole_name(text: str) -> str:
    """Return a name that is a plain path; empty: it is none."""
    return "" if "://" in text or "\\" in text else clean_name(text) or ""


def _last_name(text: str) -> str:
    """Return the last part of a path or address, without what may be a secret."""
    place = _QUERY.sub("", text) if "://" in text else text
    return clean_name(_PARTS.split(place)[-1]) or ""


def _with_ending(name: str, ending: str) -> str:
    """Return a name with the ending that a column such as `jpg` gives."""
    return name if not name or name.lower().endswith((ending, ".jpeg")) else f"{name}{ending}"


def span(member: ArchiveMember) -> None:
    """Return no part: what a row needs is known after its footer was read."""
    del member


def content(member: ArchiveMember, read: ReadPart, max_bytes: int) -> bytes:
    """Return the bytes of an image.

    Raises:
        ImageError: `too_large`: it, or what has to be unpacked for it; `empty_file`: it is null;
            `not_found`: there is another table now; `truncated`; `undecodable`: damaged.
    """
    row, checksum = divmod(member.second, _CHECKSUM_RANGE)
    shown = redact(member.uri)
    read(0, 0)  # what is held in memory is given only to whom the file may be read by
    try:
        reader = _reader(read, member.first, checksum)
        if reader is None:
            raise replaced(member)
        data = reader.value(row)
    except IndexError as error:
        raise replaced(member) from error
    except CutOffError as error:
        raise cut_off(member) from error
    except PageTooLargeError as error:
        raise ImageError(
            ErrorCode.TOO_LARGE,
            f"{shown}: it can only be read with {error}: expected at most {MAX_PAGE_BYTES:,} "
            "bytes; write the table again with smaller row groups (100 rows)",
        ) from error
    except TableError as error:
        raise ImageError(
            ErrorCode.UNDECODABLE, f"{shown}: its table is damaged there: {printable(str(error))}"
        ) from error
    if not data:
        what = "null" if data is None else "empty"
        raise ImageError(
            ErrorCode.EMPTY_FILE,
            f"{shown}: the bytes of row {row:,} are {what}; a path or an address that may stand "
            "beside them is not followed: give a list of them instead",
        )
    checked_size(len(data), max_bytes, member)
    return data


@cached(TTLCache(_KNOWN_TABLES, _KNOWN_FOR_S), key=hashkey, condition=threading.Condition())
def _reader(read: ReadPart, begin: int, checksum: int) -> ColumnReader | None:
    """Return the reader of a column; None: the table is not the one that was listed."""
    num_bytes = _FIRST_BYTES
    while len(data := read(begin, num_bytes)) == num_bytes:
        if num_bytes > MAX_FOOTER_BYTES:
            return None
        num_bytes *= 4
    length = len(data) - END_BYTES
    if length < 0 or data[length:] != length.to_bytes(4, "little") + MAGIC:
        return None
    footer = Footer(data[:length], begin)
    column = footer.column_of(checksum)
    return None if column is None else ColumnReader(read, footer, column)
