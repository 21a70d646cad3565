"""Reading and writing at any place: the only module that imports fsspec.

`Folder` is a folder at a local path or an fsspec URL. What fails for a moment is tried again with
growing pauses; what cannot succeed (no file, no permission, full disk) is not. On object stores a
file is one put of finished bytes, so that a killed writer leaves nothing; `local_files` sees to
the same on disk.
"""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

import fsspec

from pipeline.storage import clients, uris
from pipeline.storage.local import LocalFiles, read_image
from pipeline.storage.retry import for_user, retrying
from schemas.errors import ErrorCode, ImageError, StorageError, UserError
from schemas.redact import redact


class _Store(Protocol):
    def read(self, path: str) -> bytes: ...
    def size(self, path: str) -> int: ...
    def walk(self, folder: str) -> Iterator[tuple[str, int, str]]: ...
    def write(self, path: str, data: bytes) -> None: ...
    def put(self, path: str, source: str) -> None: ...
    def create(self, path: str, data: bytes) -> None: ...
    def remove(self, path: str) -> None: ...
    def fetch(self, path: str, target: str) -> None: ...


class _RemoteFiles:
    """The operations of a store, on URLs of one fsspec file system."""

    def __init__(self, uri: str) -> None:
        self._fs = _file_system(uri)
        self._path: Callable[[str], str] = self._fs._strip_protocol

    def read(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(self._path(path)))

    def size(self, path: str) -> int:
        self._fs.invalidate_cache()
        info = self._fs.info(self._path(path))
        if info["type"] != "file":
            raise FileNotFoundError(f"not a file: {path}")
        return int(info["size"] or 0)

    def walk(self, folder: str) -> Iterator[tuple[str, int, str]]:
        self._fs.invalidate_cache()
        root = self._path(folder).rstrip("/") + "/"
        entries = (
            _s3_objects(self._fs, root) if hasattr(self._fs, "call_s3") else _found(self._fs, root)
        )
        for name, size, etag in entries:
            if name.startswith(root) and not name.endswith("/"):
                yield name[len(root) :], size, etag

    def write(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(path), data)

    def put(self, path: str, source: str) -> None:
        self._fs.put_file(source, self._path(path))

    def create(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(path), data, mode="create")

    def remove(self, path: str) -> None:
        try:
            self._fs.rm_file(self._path(path))
        except FileNotFoundError:
            return

    def fetch(self, path: str, target: str) -> None:
        self._fs.get_file(self._path(path), target)


class Folder:
    """A folder at a local path or fsspec URL; picklable. Paths in it are relative, with `/`.

    Missing files raise FileNotFoundError; what the user may not touch, or a place that cannot hold
    files, UserError; whatever else fails after the retries StorageError.
    """

    def __init__(self, uri: str) -> None:
        """Make the URI absolute; nothing is touched yet."""
        self.uri = uris.normalise(uri)

    def __repr__(self) -> str:
        """Return the constructor's call."""
        return f"Folder({self.uri!r})"

    def child(self, *parts: str) -> "Folder":
        """Return a folder below this one."""
        return Folder(self._at("/".join(parts)))

    def read_bytes(self, path: str) -> bytes:
        """Return a file's whole content."""
        uri = self._at(path)
        return for_user(lambda: retrying(lambda: _store(uri).read(uri), f"read {uri}"))

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""
        uri = self._at(path)
        return for_user(lambda: retrying(lambda: _store(uri).size(uri), f"look at {uri}"))

    def exists(self, path: str) -> bool:
        """Tell whether there is a file of this name; folders do not count."""
        try:
            self.size(path)
        except FileNotFoundError:
            return False
        return True

    def sizes(self, path: str = "") -> dict[str, int]:
        """Return the size in bytes of every file below `path`, by name relative to this folder."""
        prefix = f"{path}/" if path else ""
        uri = self._at(path) if path else self.uri
        return {f"{prefix}{name}": size for name, size, _ in walk(uri)}

    def peek(self, limit: int) -> list[str]:
        """Return the names of some files below, `limit` at most, without listing all."""

        def some() -> list[str]:
            return [name for name, _, _ in islice(_store(self.uri).walk(self.uri), limit)]

        return for_user(lambda: retrying(some, f"list {self.uri}"))

    def list(self, path: str = "") -> list[str]:
        """Return the sorted names of all files below `path`, relative to this folder."""
        return sorted(self.sizes(path))

    def atomic_write(self, path: str, data: bytes) -> None:
        """Write or replace a file: readers see the old content or the new one, never a part."""
        uri = self._at(path)
        _to_a_place(lambda: retrying(lambda: _store(uri).write(uri, data), f"write {uri}"))

    def put_file(self, path: str, local_path: str | os.PathLike[str]) -> None:
        """Do the same with a local file, which may be gone then: one disk keeps one copy."""
        uri, source = self._at(path), os.fspath(local_path)
        _to_a_place(lambda: retrying(lambda: _store(uri).put(uri, source), f"write {uri}"))

    def create_once(self, path: str, data: bytes) -> bool:
        """Write a file that must not exist yet.

        Returns:
            Whether the file now is ours; False where somebody else's is there, left as it was.
        """
        uri = self._at(path)
        try:
            for_user(lambda: retrying(lambda: _store(uri).create(uri, data), f"create {uri}"))
        except (FileNotFoundError, FileExistsError, StorageError) as error:
            # A put whose answer was lost and that was tried again meets its own file; and some
            # stores refuse a second creation with an error of their own.
            if not self.exists(path):
                raise _place_error(error) from error
            return self.read_bytes(path) == data
        return True

    def delete(self, path: str) -> None:
        """Remove a file; no error where there is none."""
        uri = self._at(path)
        for_user(lambda: retrying(lambda: _store(uri).remove(uri), f"delete {uri}"))

    def _at(self, path: str) -> str:
        return uris.join(self.uri, uris.check_relative(path))


def walk(uri: str) -> list[tuple[str, int, str]]:
    """Return (relative path, size in bytes, etag) of every file below a folder, in no order."""
    place = uris.normalise(uri)
    return for_user(lambda: retrying(lambda: list(_store(place).walk(place)), f"list {place}"))


def fetch(uri: str, target: str | os.PathLike[str]) -> None:
    """Copy a file to a local path, which is not written atomically."""
    place = uris.normalise(uri)
    for_user(
        lambda: retrying(lambda: _store(place).fetch(place, os.fspath(target)), f"fetch {place}")
    )


def read_uri(uri: str, max_bytes: int = 0, size_bytes: int | None = None) -> bytes:
    """Return the bytes of one image.

    Args:
        uri: local path or URL.
        max_bytes: larger files are refused before they are read; 0: no limit.
        size_bytes: the size as listed, which saves a question to a remote store.

    Raises:
        ImageError: `not_found`, `permission_denied`, `storage_error`, `empty_file`, `too_large`,
            or `not_an_image` for a folder or pipe.
    """
    try:
        place = uris.normalise(uri)
        data = retrying(lambda: _read_image(place, max_bytes, size_bytes), f"read {place}")
    except FileNotFoundError as error:
        raise ImageError(ErrorCode.NOT_FOUND, str(error)) from error
    except PermissionError as error:
        raise ImageError(ErrorCode.PERMISSION_DENIED, str(error)) from error
    except (StorageError, UserError, OSError) as error:
        raise ImageError(ErrorCode.STORAGE_ERROR, redact(str(error))) from error
    if not data:
        raise ImageError(ErrorCode.EMPTY_FILE, f"{redact(uri)} has no bytes")
    return data


def _read_image(place: str, max_bytes: int, size_bytes: int | None) -> bytes:
    if not uris.scheme(place):
        return read_image(place, max_bytes)
    store = _RemoteFiles(place)
    if max_bytes:
        size = store.size(place) if size_bytes is None else size_bytes
        if size > max_bytes:
            message = f"{redact(place)} has {size} bytes, more than image.max_bytes = {max_bytes}"
            raise ImageError(ErrorCode.TOO_LARGE, message)
    return store.read(place)


def _to_a_place(write: Callable[[], None]) -> None:
    try:
        for_user(write)
    except (FileNotFoundError, FileExistsError) as error:
        raise _place_error(error) from error


def _place_error(error: Exception) -> Exception:
    """Return what a writer is told: the folder of a new file cannot be, however often one tries."""
    if isinstance(error, StorageError):
        return error
    return UserError(
        f"{error}; no folder can be made there (a part of the path is a file, or there is no such "
        "bucket or disk): choose another place"
    )


def _store(uri: str) -> _Store:
    return _RemoteFiles(uri) if uris.scheme(uri) else LocalFiles()


def _file_system(uri: str) -> Any:
    protocol = uris.scheme(uri)
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = clients.EXTRAS.get(protocol)
        hint = f"pip install 'ovseg[{extra}]'" if extra else str(error)
        raise UserError(
            f"{protocol}:// needs a client package that is not installed: {hint}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"unknown scheme {protocol}:// in {redact(uri)}; s3://, gs://, abfs:// are usual"
        ) from error
    options = kind._get_kwargs_from_urls(uri) | clients.options(protocol)
    try:
        return fsspec.filesystem(protocol, **options)
    except ValueError as error:  # so do clients refuse incomplete settings
        raise UserError(f"cannot use {redact(uri)}: {redact(str(error))}") from error


def _found(fs: Any, root: str) -> Iterator[tuple[str, int, str]]:
    for name, info in fs.find(root.rstrip("/"), detail=True).items():
        yield (
            name,
            int(info.get("size") or 0),
            str(info.get("ETag") or info.get("etag") or "").strip('"'),
        )


def _s3_objects(fs: Any, root: str) -> Iterator[tuple[str, int, str]]:
    # Page by page: fs.find would hold a dict of 1.5 kB for each of maybe millions of objects.
    bucket, prefix, _ = fs.split_path(root)
    more: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        for entry in page.get("Contents", []):
            yield f"{bucket}/{entry['Key']}", int(entry["Size"]), entry.get("ETag", "").strip('"')
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}
