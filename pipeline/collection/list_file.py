"""List files: .txt with a URI per line; .csv, .tsv, .jsonl, .parquet with columns `uri`, `path`.

`path` may be left out. Each kind but Parquet may be packed: `list.csv.gz`.
A COCO file (.json) is a list, too: each `file_name` of its `images`, below the first root that is
given beside it, else its own folder. Exports to COCO keep its image ids.

A relative URI is meant from the list's own folder. A .txt has no comments and no quotes, since a
file name may begin with any character; empty lines are skipped.
A list that lies at a URL names no files of this machine, and no list names a store whose URLs can
hold more than a place (`sftp://`, `zip://`, ...), unless the user gives their folder, too.
"""

import csv
import gzip
import hashlib
import io
import json
import logging
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa

from pipeline.collection import plain_list
from pipeline.storage import parquet, places, uris
from pipeline.storage.folder import Folder
from schemas.errors import CollectionError, ConfigError
from schemas.redact import redact
from schemas.untrusted import is_relative_path

logger = logging.getLogger(__name__)
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".json")
_PACKED = ".gz"
OTHER_LISTS = (".xml", ".yaml", ".yml", ".xlsx", ".ndjson", ".lst", ".list")
"""Endings of files that hold no image and are no list that is read."""
_LOOKED_FOR = 5
_MAX_UNPACKED_BYTES = 4 << 30


class ListedImage(NamedTuple):
    """One image as listed; sorts by path."""

    path: str
    uri: str
    size_bytes: int | None
    etag: str
    coco_id: int | None = None
    """Id in the COCO file that lists it."""


class _Row(NamedTuple):
    place: int
    uri: object
    path: object
    coco_id: int | None = None


def is_list(name: str) -> bool:
    """Return whether a file is a list of images, by its name."""
    return name.lower().removesuffix(_PACKED).endswith(SUFFIXES)


def read_list(uri: str, roots: Sequence[str] = ()) -> pa.Table | list[ListedImage]:
    """Return the images of a list file, in its order; as columns `uri` and `path` if it can.

    Args:
        uri: normalised.
        roots: folders and URLs that it may name beside the usual ones.

    Raises:
        CollectionError: it cannot be read, is empty or has a wrong row, which is named.
    """
    root, name = uris.parent_and_name(uri)
    shown = redact(uri)
    data = Folder(root).read_bytes(name)
    kinds = {
        ".txt": _txt,
        ".csv": _csv,
        ".tsv": _tsv,
        ".jsonl": _jsonl,
        ".parquet": _parquet,
        ".json": _coco,
    }
    file_name = uris.parent_and_name(uris.without_query(uri))[1].lower()
    plain = file_name.removesuffix(_PACKED)
    reader = kinds[plain[plain.rindex(".") :]]
    try:
        if plain != file_name:
            data = unpacked(data)
        if plain.endswith((".txt", ".parquet")):
            with suppress(plain_list.NotPlainError):
                parts = plain_list.lines if plain.endswith(".txt") else plain_list.columns
                if (table := plain_list.read_plain(parts(data), root)).num_rows:
                    return table
        if plain.endswith(".json") and roots:
            root = uris.normalise(roots[0])
        entries = [_entry(row, root, shown) for row in reader(data)]
    except UnicodeDecodeError as error:
        raise CollectionError(f"{shown} is not UTF-8 text: {error}") from error
    except (
        csv.Error, ValueError, RecursionError, pa.ArrowException, OSError, EOFError, zlib.error,
    ) as error:  # fmt: skip
        raise CollectionError(f"{shown} cannot be read as a list of images: {error}") from error
    if not entries:
        raise CollectionError(f"{shown} lists no images")
    _check_places(entries, uri, roots)
    return _with_queries(entries)


def _check_places(entries: list[ListedImage], uri: str, roots: Sequence[str]) -> None:
    """Refuse places that a list may not name, see the module."""
    usual = places.LISTED_SCHEMES if uris.scheme(uri) else {*places.LISTED_SCHEMES, ""}
    given = [uris.store(uri), *map(uris.normalise, roots)]
    wrong = [
        entry.uri
        for entry in entries
        if uris.scheme(entry.uri) not in usual and not places.is_below(entry.uri, given)
    ]
    if wrong:
        what = "files of this machine" if not uris.scheme(wrong[0]) else "an unusual kind of store"
        raise CollectionError(
            f"{redact(uri)} names {what} ({len(wrong):,} entries, the first is "
            f"{redact(wrong[0])!r}): give the folder or URL that these lie in as --images-root"
        )


def check_are_there(entries: Sequence[ListedImage], shown: str) -> None:
    """Refuse a COCO file whose images lie elsewhere: of the first few not one is there.

    Args:
        entries: what it lists.
        shown: the file, for the message.

    Raises:
        CollectionError: it says how their place is given.
    """
    first = entries[:_LOOKED_FOR]
    places = [uris.parent_and_name(entry.uri) for entry in first]
    if not any(Folder(folder).exists(name) for folder, name in places):
        raise CollectionError(
            f"{shown}: of its first {len(first)} images none is there, such as "
            f"{redact(first[0].uri)}: give the folder or URL that they lie in as --images-root"
        )


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


def unpacked(data: bytes, max_bytes: int = _MAX_UNPACKED_BYTES) -> bytes:
    """Return what a .gz file holds.

    Raises:
        ValueError: more than `max_bytes`, whole GiB.
        OSError, EOFError, zlib.error: it is damaged.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise _ColumnError(f"it unpacks to more than {max_bytes >> 30} GiB")
    return content


def _txt(data: bytes) -> Iterator[_Row]:
    for place, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        text = line.removesuffix("\r")
        if text.strip():
            yield _Row(place, text, None)


def _tsv(data: bytes) -> Iterator[_Row]:
    return _csv(data, "\t")


def _csv(data: bytes, delimiter: str = ",") -> Iterator[_Row]:
    text = io.StringIO(data.decode("utf-8-sig"), newline="")
    reader = csv.DictReader(text, delimiter=delimiter, strict=True)
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


def _coco(data: bytes) -> Iterator[_Row]:
    content = json.loads(data)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise _ColumnError('expected a COCO file, an object with a list "images"')
    numbers = {
        image["id"] for image in images if isinstance(image, dict) and type(image.get("id")) is int
    }
    if len(numbers) < len(images):
        logger.warning(
            "the ids of the COCO file's images are not whole numbers, each once: exports count the "
            "images themselves"
        )
    for place, image in enumerate(images):
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not is_relative_path(name):
            raise _ColumnError(
                f'images[{place}]: expected a "file_name" that stays in its folder, got {name!r}'
            )
        yield _Row(place, f"./{name}", name, image["id"] if len(numbers) == len(images) else None)


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
        return ListedImage(uris.check_relative(path), uri, None, "", row.coco_id)
    except (ValueError, ConfigError) as error:
        raise CollectionError(f"{shown}, row {row.place}: {error}") from error


def _with_queries(entries: list[ListedImage]) -> list[ListedImage]:
    """Tell URLs apart that differ in their query only: `img.php?id=1`, `img.php?id=2`.

    The query stands as a hash: it may hold a secret, and paths are shown and stored.
    """
    uris_of: dict[str, set[str]] = {}
    for entry in entries:
        if "?" in entry.uri and uris.scheme(entry.uri) in ("http", "https"):
            uris_of.setdefault(entry.path, set()).add(entry.uri)
    if not any(len(found) > 1 for found in uris_of.values()):
        return entries
    return [
        entry._replace(path=f"{entry.path}?{hashlib.sha256(entry.uri.encode()).hexdigest()[:12]}")
        if len(uris_of.get(entry.path, ())) > 1
        else entry
        for entry in entries
    ]


def _resolve(uri: str, root: str) -> str:
    if uris.scheme(uri) or uri.startswith(("/", "~/", *uris.LOCAL_URLS)):
        return uris.normalise(uri)
    if not uris.scheme(root):
        return uris.normalise(f"{root}/{uri}")
    head, place = root.split("://", 1)
    return f"{head}://{posixpath.normpath(f'{place}/{uri}').lstrip('/')}"


def _path_of(uri: str, root: str) -> str:
    prefix = root if root.endswith("/") else f"{root}/"
    member = uris.member_of(uri)
    if member is not None:
        return f"{_path_of(member.archive, root)}/{member.name}"
    plain = uris.without_query(uri)
    if plain.startswith(prefix):
        return plain[len(prefix) :]
    place = plain.split("://", 1)[-1]
    return "/".join(part for part in place.split("/") if part)
