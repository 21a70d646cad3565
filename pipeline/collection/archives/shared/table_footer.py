"""What the footer of a Parquet file says of its columns and row groups, for tables of images.

pyarrow is not asked: a forged footer ends its process. Anybody may have written the file, so that
all that is taken from it is checked against the bytes that are there.
"""

import json
import math
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pipeline.storage import parquet
from pipeline.storage.parquet import ColumnChunk, Fields, number_in
from schemas.untrusted import printable

MAGIC = b"PAR1"
END_BYTES = 8
"""After the footer: its length and the mark."""
MAX_FOOTER_BYTES = 16 << 20
_FREE_ROWS, _BYTES_OF_ROW = 1 << 20, 16
"""Rows that any file may have; a file of more has as many bytes for each."""
_BYTE_ARRAY, _TEXT = 6, 0
_REQUIRED, _OPTIONAL = 0, 1
_MAX_DEPTH = 32
_MAX_SHOWN = 20
_FEATURES = b"huggingface"
"""Key of the metadata in which the library `datasets` says what its columns are."""
_IMAGE = "image"
_ENDINGS = {"jpg": ".jpg", "jpeg": ".jpg", "png": ".png", "webp": ".webp"}
_PLAIN_NAMES = {_IMAGE, "images", "img", "bytes", "image_bytes", *_ENDINGS}
"""Names of a column of bytes that is taken for one of images, in small letters."""
_NAMES = ("__key__", "file_name", "path")
"""Columns that name the images beside them, the first that is there."""
_LIST_COLUMN = "uri"


class TableError(ValueError):
    """A file is not a sound table of images; the text says why."""


class Leaf(NamedTuple):
    """One column as Parquet stores it: a field of a structure is one of its own."""

    number: int
    """Its place in each row group."""
    path: tuple[str, ...]
    most_level: int
    """How many of it and the structures around it may be null."""
    is_bytes: bool
    is_text: bool
    is_repeated: bool

    @property
    def shown_first(self) -> str:
        """The name of its first part, under which people know it."""
        return printable(self.path[0])

    @property
    def shown(self) -> str:
        """Its name for a person."""
        return printable(".".join(self.path))


class ImageColumn(NamedTuple):
    """The column that has the images, and the one that has their names."""

    images: Leaf
    names: Leaf | None

    @property
    def ending(self) -> str:
        """Of the images' names, where the column's name says it; else empty."""
        return _ENDINGS.get(self.images.path[0].lower(), "")


class RowGroup(NamedTuple):
    """Some of a table's rows in one column."""

    first_row: int
    num_rows: int
    chunk: ColumnChunk


class Footer:
    """The footer of a Parquet file.

    Args:
        data: its bytes, without its length and the mark.
        begin: its place in the file.

    Raises:
        TableError: it is not as Parquet's format says, or lies about the file.
    """

    def __init__(self, data: bytes, begin: int) -> None:
        self.begin = begin
        self._crc = zlib.crc32(data)
        try:
            # Fields of FileMetaData: parquet-format, src/main/thrift/parquet.thrift.
            fields, _ = parquet.structure(data)
            self.leaves = tuple(_leaves(fields[2]))
            self._groups: list[Fields] = fields.get(4, [])
            self._rows = [number_in(group, 3) for group in self._groups]
            self._features = _features(fields.get(5, []))
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise TableError(f"its list of columns is damaged: {error!r}"[:300]) from error
        self.num_rows = sum(self._rows)
        # A list's rows are names, which pack well; an image needs some bytes.
        most = math.inf if self.is_list else _FREE_ROWS + begin // _BYTES_OF_ROW
        if min(self._rows, default=0) < 0 or self.num_rows > most:
            raise TableError(f"a file of {begin:,} bytes that says it has {self.num_rows:,} rows")

    @property
    def is_list(self) -> bool:
        """Whether the file is a list of images: it has a column `uri`."""
        return any(leaf.path[0] == _LIST_COLUMN for leaf in self.leaves)

    def checksum(self, column: Leaf) -> int:
        """Return nine digits that change with the footer and with the column."""
        return zlib.crc32("\0".join(column.path).encode(), self._crc) % 10**9

    def column_of(self, checksum: int) -> Leaf | None:
        """Return the column of bytes that has a checksum; None: there is none."""
        fitting = (one for one in self.leaves if one.is_bytes and not one.is_repeated)
        return next((one for one in fitting if self.checksum(one) == checksum), None)

    def groups(self, column: Leaf) -> list[RowGroup]:
        """Return a column's row groups.

        Raises:
            TableError: one of them does not lie in the file.
        """
        found, first_row = [], 0
        for group, num_rows in zip(self._groups, self._rows, strict=True):
            try:
                chunk = parquet.column_chunk(group[1][column.number][3])
            except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
                raise TableError(f"column {column.shown} is damaged or encrypted") from error
            end = chunk.first_page + chunk.packed
            if not len(MAGIC) <= chunk.first_page <= end <= self.begin:
                raise TableError(
                    f"column {column.shown} lies at bytes {chunk.first_page:,} to {end:,} of "
                    f"{self.begin:,}"
                )
            found.append(RowGroup(first_row, num_rows, chunk))
            first_row += num_rows
        return found

    def image_column(self, wanted: str = "") -> ImageColumn:
        """Return the column of the images.

        Args:
            wanted: its name; empty: the only one that can be meant, or the one called `image`.

        Raises:
            TableError: there is none, or any of several may be meant.
        """
        named = [one for one in self._bytes if one.path in ((wanted,), (wanted, "bytes"))]
        for candidates in (named, self._declared, self._structures, self._plain):
            called_so = [one for one in candidates if one.path[0].lower() == _IMAGE]
            fitting = candidates if len(candidates) < 2 else called_so or candidates
            if len(fitting) == 1:
                return ImageColumn(fitting[0], self._names_of(fitting[0]))
            if fitting:
                raise TableError(
                    f"any of its columns {_listed(fitting)} may have the images: say which, such "
                    f"as --set image.column={fitting[0].shown_first}"
                )
            if wanted:
                break
        what = f"no column {printable(wanted)!r} of bytes" if wanted else "no column of images"
        raise TableError(
            f"it has {what}; its columns are {_listed(self.leaves)}. Expected a structure of "
            "`bytes` and `path` (Hugging Face), or bytes with a name such as `image` or `jpg`; "
            "another column of bytes is taken by --set image.column=NAME"
        )

    @cached_property
    def _declared(self) -> list[Leaf]:
        """Columns of the library `datasets` with its feature Image."""
        ends = {path for name in self._features for path in ((name,), (name, "bytes"))}
        return [leaf for leaf in self._bytes if leaf.path in ends]

    @cached_property
    def _structures(self) -> list[Leaf]:
        paths = {leaf.path for leaf in self.leaves}
        return [
            leaf
            for leaf in self._bytes
            if leaf.path[1:] == ("bytes",) and (leaf.path[0], "path") in paths
        ]

    @cached_property
    def _plain(self) -> list[Leaf]:
        return [
            leaf
            for leaf in self._bytes
            if len(leaf.path) == 1 and leaf.path[0].lower() in _PLAIN_NAMES
        ]

    @property
    def _bytes(self) -> Iterator[Leaf]:
        return (
            leaf
            for leaf in self.leaves
            if leaf.is_bytes and not leaf.is_text and not leaf.is_repeated
        )

    def _names_of(self, images: Leaf) -> Leaf | None:
        paths = [(images.path[0], "path")] if len(images.path) == 2 else []
        paths += [(name,) for name in _NAMES]
        texts = {leaf.path: leaf for leaf in self.leaves if leaf.is_bytes and not leaf.is_repeated}
        return next((texts[path] for path in paths if path in texts), None)


@dataclass
class _Structure:
    """A structure of the schema, of which children are still to come."""

    children_left: int
    path: tuple[str, ...] = ()
    level: int = 0
    is_repeated: bool = False


def _leaves(schema: Sequence[Fields]) -> Iterator[Leaf]:
    """Yield the columns of a schema, a tree that is written out depth first from its root."""
    around = [_Structure(number_in(schema[0], 5))]
    number = 0
    for element in schema[1:]:
        while around and around[-1].children_left <= 0:
            around.pop()
        parent = around[-1]
        parent.children_left -= 1
        kind = element.get(3, _REQUIRED)
        here = _Structure(
            element.get(5) or 0,
            (*parent.path, element[4].decode(errors="replace")),
            parent.level + (kind == _OPTIONAL),
            parent.is_repeated or kind not in (_REQUIRED, _OPTIONAL),
        )
        if len(here.path) > _MAX_DEPTH:
            raise ValueError("structures in structures, too deep")
        if here.children_left > 0:
            around.append(here)
            continue
        is_text = element.get(6) == _TEXT or 1 in element.get(10, {})
        is_bytes = element.get(1) == _BYTE_ARRAY
        yield Leaf(number, here.path, here.level, is_bytes, is_text, here.is_repeated)
        number += 1


def _features(metadata: Sequence[Fields]) -> list[str]:
    """Return the columns that the library `datasets` calls images."""
    text = next((pair.get(2, b"") for pair in metadata if pair.get(1) == _FEATURES), b"{}")
    try:
        content: Any = json.loads(text)
        features = content["info"]["features"].items()
        return [name for name, kind in features if kind.get("_type") == "Image"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _listed(leaves: Sequence[Leaf]) -> str:
    names = list(dict.fromkeys(leaf.path[0] for leaf in leaves))
    more = f" and {len(names) - _MAX_SHOWN:,} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(printable(name) for name in names[:_MAX_SHOWN]) + more


def group_of(groups: Sequence[RowGroup], row: int) -> RowGroup | None:
    """Return the group that has a row; None: there is none."""
    place = bisect_right(groups, row, key=lambda group: group.first_row) - 1
    # Groups without rows begin where the next one does, which is then the last of them.
    group = groups[place] if place >= 0 else None
    return group if group is not None and row < group.first_row + group.num_rows else None
