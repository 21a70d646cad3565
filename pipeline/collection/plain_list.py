"""Lists in which every name is a plain one, resolved column by column: millions of them in seconds.

Plain are a URL of a store that any list may name, an absolute local path and a path relative to the
list's folder, without a character or part that `list_file` treats in any way. Other lists are
read row by row there; where both can read a list, the result is the same.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipeline.collection.manifest import ROWS_AT_ONCE, joined_texts
from pipeline.storage import parquet, uris
from pipeline.storage.places import LISTED_SCHEMES
from schemas.untrusted import first_not_relative

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

_PART = r"[^/\\:@?#%~\x00-\x1f\x7f-\x9f]+"
_BUCKET = rf"(?:{'|'.join(sorted(LISTED_SCHEMES))})://{_PART}"
_URL, _ABSOLUTE, _RELATIVE = "url", "absolute", "relative"
_KINDS = {
    _URL: rf"\A{_BUCKET}(?:/{_PART})+\z",
    _RELATIVE: rf"\A{_PART}(?:/{_PART})*\z",
    _ABSOLUTE: rf"\A(?:/{_PART})+\z",
}
_LOCAL_ROOT, _URL_ROOT = re.compile(rf"(?:/{_PART})+"), re.compile(rf"{_BUCKET}(?:/{_PART})*")
_LEADS_ELSEWHERE_OR_BLANK = r"(?:\A|/)\.{1,2}(?:/|\z)|\A\pZ*\z"


class NotPlainError(ValueError):
    """The list has a name that is not plain, or is of a kind that is read row by row."""


Part = tuple[pa.Array, pa.Array | None]
"""Some rows of a list: names of images, and their paths where the list states them."""


def read_plain(parts: Iterable[Part], root: str) -> pa.Table:
    """Return columns `uri` and `path` of a list's images, in its order.

    Args:
        parts: of the list; texts without nulls.
        root: the list's folder, normalised.

    Raises:
        NotPlainError: one is not plain.
    """
    is_remote = bool(uris.scheme(root))
    if not (_URL_ROOT if is_remote else _LOCAL_ROOT).fullmatch(root):
        raise NotPlainError
    batches = []
    for names, given in parts:
        kind = _kind_of(names)
        if kind == _ABSOLUTE and is_remote:
            raise NotPlainError
        uri = joined_texts(f"{root}/", names) if kind == _RELATIVE else names
        path = names if kind == _RELATIVE else _paths(names, kind, root)
        path = path if given is None else given
        batches.append(pa.RecordBatch.from_arrays([uri, path], ["uri", "path"]))
    if not batches:
        raise NotPlainError
    return pa.Table.from_batches(batches)


def lines(data: bytes) -> Iterator[Part]:
    """Yield the lines of a text that are not empty.

    Args:
        data: UTF-8, with a byte order mark or not.
    """
    content = np.frombuffer(data.removeprefix(b"\xef\xbb\xbf") + b"\n", np.uint8)
    ends = np.flatnonzero(content == ord("\n")) + 1
    begin = 0
    for first in range(0, len(ends), ROWS_AT_ONCE):
        offsets = np.append(begin, ends[first : first + ROWS_AT_ONCE])
        text = content[begin : offsets[-1]]
        if len(text) >= 2**31:
            raise NotPlainError
        places = pa.py_buffer((offsets - begin).astype(np.int32))
        part: Any = pa.StringArray.from_buffers(len(offsets) - 1, places, pa.py_buffer(text))
        _check_text(part)
        part = compute.replace_substring_regex(part, r"\r?\n\z", "")
        yield part.filter(_matches(part, ".")), None
        begin = offsets[-1]


def columns(data: bytes) -> Iterator[Part]:
    """Yield the columns `uri` and `path` of a Parquet file; the latter may be missing.

    Raises:
        NotPlainError: another one is, or one is not all texts.
        pyarrow.ArrowException, ValueError, OSError: the file is damaged.
    """
    present = parquet.column_names(data)
    if "uri" not in present:
        raise NotPlainError
    names = [name for name in ("uri", "path") if name in present]
    table = parquet.read_table(data, names)
    kinds = (pa.string(), pa.large_string())
    if any(column.null_count or column.type not in kinds for column in table.columns):
        raise NotPlainError
    table = table.cast(pa.schema([(name, pa.string()) for name in names]))
    if "path" in names and first_not_relative(table["path"]) is not None:
        raise NotPlainError
    for part in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        for column in part.columns:
            _check_text(column)
        yield part["uri"], part["path"] if "path" in names else None


def _kind_of(part: pa.Array) -> str:
    """Return the kind of some names, which are all of one.

    Raises:
        NotPlainError: they are not.
    """
    for kind, pattern in _KINDS.items():
        if _all_match(part, pattern):
            if compute.any(_matches(part, _LEADS_ELSEWHERE_OR_BLANK)).as_py():
                break
            return kind
    raise NotPlainError


def _paths(names: pa.Array, kind: str, root: str) -> pa.Array:
    """Return the paths of URLs or absolute paths, see `list_file`."""
    beginning = r"\A[a-z0-9]+://" if kind == _URL else r"\A/"
    return compute.replace_substring_regex(names, rf"\A{re.escape(root)}/|{beginning}", "")


def _matches(part: pa.Array, pattern: str) -> pa.Array:
    return compute.match_substring_regex(part, pattern)


def _all_match(part: pa.Array, pattern: str) -> bool:
    return bool(compute.all(_matches(part, pattern)).as_py())


def _check_text(part: pa.Array) -> None:
    try:
        part.validate(full=True)
    except pa.ArrowInvalid as error:
        raise NotPlainError from error
