"""List files: .txt with one URI per line; .csv, .jsonl, .parquet with columns `uri`, maybe `path`.

A relative URI is meant from the list's own folder. A .txt has no comments and no quotes, since a
file name may begin with any character; empty lines are skipped.
"""

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from pipeline.storage import parquet, uris
from pipeline.storage.folder import Folder
from schemas.errors import CollectionError, ConfigError
from schemas.redact import redact

SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")


class ListedImage(NamedTuple):
    """One image as listed; sorts by path."""

    path: str
    uri: str
    size_bytes: int | None
    etag: str


class _Row(NamedTuple):
    place: int
    uri: object
    path: object


def is_list(name: str) -> bool:
    """Return whether a file is a list of images, by its name."""
    return name.lower().endswith(SUFFIXES)


def read_list(uri: str) -> list[ListedImage]:
    """Return the images of a list file, in its order.

    Raises:
        CollectionError: it cannot be read, is empty or has a wrong row, which is named.
    """
    root, name = uris.parent_and_name(uri)
    shown = redact(uri)
    data = Folder(root).read_bytes(name)
    rows = {".txt": _txt, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    reader = rows[name[name.rindex(".") :].lower()]
    try:
        entries = [_entry(row, root, shown) for row in reader(data)]
    except UnicodeDecodeError as error:
        raise CollectionError(f"{shown} is not UTF-8 text: {error}") from error
    except (csv.Error, json.JSONDecodeError, pa.ArrowException, OSError, _ColumnError) as error:
        raise CollectionError(f"{shown} cannot be read as a list of images: {error}") from error
    if not entries:
        raise CollectionError(f"{shown} lists no images")
    return entries


def read_names(uri: str) -> list[str]:
    """Return the names in a split file (one per line), in its order.

    Raises:
        CollectionError: it does not exist, is not text or has no name in it.
    """
    root, name = uris.parent_and_name(uris.normalise(uri))
    shown = redact(uri)
    try:
        text = Folder(root).read_bytes(name).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise CollectionError(f"{shown}: no such list of names") from error
    except UnicodeDecodeError as error:
        raise CollectionError(f"{shown} is not UTF-8 text: {error}") from error
    names = [line.strip() for line in text.split("\n") if line.strip()]
    if not names:
        raise CollectionError(f"{shown} lists no names")
    return names


class _ColumnError(ValueError):
    pass


def _txt(data: bytes) -> Iterator[_Row]:
    for place, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        text = line.removesuffix("\r")
        if text.strip():
            yield _Row(place, text, None)


def _csv(data: bytes) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    _check_columns(list(reader.fieldnames or []))
    for row in reader:
        yield _Row(reader.line_num, row["uri"], row.get("path") or None)


def _jsonl(data: bytes) -> Iterator[_Row]:
    for place, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict) or "uri" not in row:
            raise _ColumnError(f'line {place}: expected an object with "uri", got {line[:80]!r}')
        yield _Row(place, row["uri"], row.get("path"))


def _parquet(data: bytes) -> Iterator[_Row]:
    names = parquet.column_names(data)
    _check_columns(names)
    table = parquet.read_table(data, [name for name in ("uri", "path") if name in names])
    place = 0
    for batch in table.to_batches():
        paths = batch.column("path").to_pylist() if "path" in names else [None] * batch.num_rows
        for uri, path in zip(batch.column("uri").to_pylist(), paths, strict=True):
            place += 1
            yield _Row(place, uri, path)


def _check_columns(names: list[str]) -> None:
    if "uri" not in names:
        raise _ColumnError(f"expected a column `uri`, got {names}")


def _entry(row: _Row, root: str, shown: str) -> ListedImage:
    try:
        if not isinstance(row.uri, str) or not row.uri:
            raise ValueError(f"expected a text in `uri`, got {row.uri!r}")
        uri = _resolve(row.uri, root)
        path = _path_of(uri, root) if row.path is None else row.path
        if not isinstance(path, str):
            raise ValueError(f"expected a text in `path`, got {path!r}")
        return ListedImage(uris.check_relative(path), uri, None, "")
    except (ValueError, ConfigError) as error:
        raise CollectionError(f"{shown}, row {row.place}: {error}") from error


def _resolve(uri: str, root: str) -> str:
    if uris.scheme(uri) or uri.startswith(("/", "~/", *uris.LOCAL_URLS)):
        return uris.normalise(uri)
    if not uris.scheme(root):
        return uris.normalise(f"{root}/{uri}")
    head, place = root.split("://", 1)
    return f"{head}://{posixpath.normpath(f'{place}/{uri}').lstrip('/')}"


def _path_of(uri: str, root: str) -> str:
    prefix = root if root.endswith("/") else f"{root}/"
    if uri.startswith(prefix):
        return uri[len(prefix) :]
    place = uri.split("://", 1)[-1]
    if uris.scheme(uri) in ("http", "https"):
        place = place.split("?")[0].split("#")[0]
    return "/".join(part for part in place.split("/") if part)
