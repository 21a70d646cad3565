"""Reading and writing whole files in a folder at any place.

`Folder` is a folder at a local path or an fsspec URL. What fails for a moment is tried again with
growing pauses; permanent errors (no file, no permission, full disk) are not. A killed writer
leaves nothing that a reader takes for a file: see `local` and `remote`.
"""

import hashlib
import logging
import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, TypeVar

from pipeline.storage import failures, uris
from pipeline.storage.http import ByteRange
from pipeline.storage.local import (
    DownloadLimit,
    FileTooLargeError,
    LocalFiles,
    NotAFileError,
    read_regular_file,
    read_regular_part,
)
from pipeline.storage.places import ImagePlaces
from pipeline.storage.remote import RemoteFiles
from pipeline.storage.retry import Deadline, retrying
from pipeline.storage.waiting import StorageThreads, waiting
from schemas.errors import ErrorCode, ImageError, StorageError, UserError
from schemas.redact import redact

logger = logging.getLogger(__name__)
T = TypeVar("T")
WalkedFile = tuple[str, int | None, str]
"""Path relative to the folder that is walked, size in bytes and etag, see `Folder.walk`."""
_BLOCK = 65536
_HASHED_AT_ONCE = 8
_OVERWRITING_STORES: set[str] = set()
"""Stores that do not create files only once."""


class _Store(Protocol):
    def read(self, path: str, max_bytes: int = 0) -> bytes: ...
    def size(self, path: str) -> int: ...
    def walk(self, folder: str) -> Iterator[WalkedFile]: ...
    def write(self, path: str, data: bytes) -> None: ...
    def put(self, path: str, source: str) -> None: ...
    def create(self, path: str, data: bytes) -> None: ...
    def remove(self, path: str) -> None: ...
    def fetch(self, path: str, target: str, limit: DownloadLimit) -> None: ...


class Folder:
    """A folder at a local path or fsspec URL; picklable. Paths in it are relative, with `/`.

    Args:
        uri: made absolute; nothing is touched yet.
        follow_links: False: a symbolic link below a local folder is not followed, neither to read
            nor to write, list or delete; listings give it without a size.

    Raises:
        FileNotFoundError: from all that reads, where there is no such file.
        UserError: the user may not touch it, or the place cannot hold files.
        StorageError: anything else that fails after the retries.
    """

    def __init__(self, uri: str, *, follow_links: bool = True) -> None:
        self.uri = uris.normalise(uri)
        self._root = "" if follow_links else self.uri

    def __repr__(self) -> str:
        """Return the constructor's call."""
        return f"Folder({self.uri!r})"

    def child(self, *parts: str) -> "Folder":
        """Return a folder below this one."""
        child = Folder(self._at("/".join(parts)))
        child._root = self._root
        return child

    def read_bytes(self, path: str, max_bytes: int = 0) -> bytes:
        """Return a file's whole content.

        Args:
            path: of the file.
            max_bytes: larger files are refused before they are read; 0: no limit.

        Raises:
            NotAFileError: a local folder, pipe, device or socket.
            FileTooLargeError: more bytes.
        """
        uri = self._at(path)
        return self._call("read", uri, lambda store: store.read(uri, max_bytes))

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""
        uri = self._at(path)
        return self._call("look at", uri, lambda store: store.size(uri))

    def exists(self, path: str) -> bool:
        """Return whether there is a file of this name; folders do not count."""
        try:
            self.size(path)
        except FileNotFoundError:
            return False
        return True

    def walk(self) -> list[WalkedFile]:
        """Return (relative path, size in bytes, etag) of every file below, in no order.

        The size is None for a local link to nowhere or that is not followed, and for a local folder
        that may not be read, whose path ends in `/`.
        """
        return list(chain.from_iterable(self.walk_blocks(list)))

    def walk_blocks(self, kept: Callable[[Sequence[WalkedFile]], T]) -> list[T]:
        """Return what `kept` makes of the files of `walk`, 65,536 at a time.

        Of millions of files only what it returns is in memory.

        Args:
            kept: is called again for files that it had before, where the walk is tried again.
        """

        def blocks(files: Iterator[WalkedFile]) -> list[T]:
            found = []
            while block := list(islice(files, _BLOCK)):
                found.append(kept(block))
            return found

        return self._listed(blocks)

    def sizes(self, path: str = "") -> dict[str, int]:
        """Return the size in bytes of every file below `path`, by name relative to this folder."""
        prefix = f"{path}/" if path else ""
        below = self.child(path) if path else self
        return {f"{prefix}{name}": size for name, size, _ in below.walk() if size is not None}

    def peek(self, limit: int) -> list[str]:
        """Return the names of at most `limit` files below, without listing all."""
        return self._listed(lambda files: [name for name, _, _ in islice(files, limit)])

    def _listed(self, kept: Callable[[Iterator[WalkedFile]], list[T]]) -> list[T]:
        with waiting(f"list {self.uri}") as wait:

            def files(store: _Store) -> list[T]:
                return kept(wait.counted(store.walk(self.uri), "files"))

            if not uris.scheme(self.uri):
                return self._call("list", self.uri, files)
            with _as_user_errors():
                try:
                    return files(RemoteFiles(self.uri))  # its walk tries again by itself
                except FileNotFoundError as error:
                    raise UserError(
                        f"{error}: there is no such bucket or place; check its spelling"
                    ) from error

    def list(self, path: str = "") -> list[str]:
        """Return the sorted names of all files below `path`, relative to this folder."""
        return sorted(self.sizes(path))

    def sha256(self, names: Collection[str]) -> str:
        """Return the SHA-256 (hex) of the names and the content of some of the files below.

        The content stands for itself, or the store's etag for it, so that nothing is read there.
        Files that are not there any more are left out.
        """
        wanted = set(names)
        etags = {name: etag for name, _, etag in self.walk() if name in wanted}

        def content(name: str) -> str:
            return etags[name] or hashlib.sha256(self.read_bytes(name)).hexdigest()

        digest = hashlib.sha256()
        with StorageThreads(_HASHED_AT_ONCE) as threads:
            in_order = sorted(etags)
            for name, text in zip(in_order, threads.map(content, in_order), strict=True):
                digest.update(os.fsencode(f"{name}\0{text}\n"))
        return digest.hexdigest()

    def atomic_write(self, path: str, data: bytes) -> None:
        """Write or replace a file: readers see the old content or the new one, never a part."""
        uri = self._at(path)
        with _place_for_files():
            self._call("write", uri, lambda store: store.write(uri, data))

    def put_file(self, path: str, local_path: str | os.PathLike[str]) -> None:
        """Move a local file here as atomically; to another disk or a store it is copied."""
        uri, source = self._at(path), os.fspath(local_path)
        with _place_for_files():
            self._call("write", uri, lambda store: store.put(uri, source))

    def create_once(self, path: str, data: bytes) -> bool:
        """Write a file that must not exist yet.

        On a store that cannot do so (see `creates_once`) it is looked for first, then written:
        enough for one writer at a time.

        Returns:
            Whether the file now is ours; False where somebody else's is there, left as it was.
        """
        uri = self._at(path)
        with _place_for_files():
            try:
                if uris.store(uri) not in _OVERWRITING_STORES:
                    self._call("create", uri, lambda store: store.create(uri, data))
                    return True
            except (FileNotFoundError, FileExistsError, StorageError) as error:
                # A put whose answer was lost and that was tried again meets its own file; and
                # some stores refuse a second creation with an error of their own.
                is_refused = isinstance(error, StorageError) and failures.is_refused(error)
                if not self.exists(path) and not is_refused:
                    raise
            if not self.exists(path):
                self.atomic_write(path, data)
                return True
        return self.size(path) == len(data) and self.read_bytes(path) == data

    def creates_once(self, path: str) -> bool:
        """Return whether the place honours `create_once`; if not, it is remembered.

        Some stores that speak S3 refuse `If-None-Match`, others overwrite all the same.

        Args:
            path: a small file that is there and is never changed; it is created again.
        """
        uri = self._at(path)
        if not uris.scheme(uri):
            return True
        data = self.read_bytes(path)
        try:
            self._call("create", uri, lambda store: store.create(uri, data))
        except FileExistsError:
            return True
        except StorageError as error:
            if not failures.is_refused(error):
                raise
        _OVERWRITING_STORES.add(uris.store(uri))
        return False

    def delete(self, path: str) -> None:
        """Remove a file; no error where there is none."""
        uri = self._at(path)
        self._call("delete", uri, lambda store: store.remove(uri))

    def delete_empty_folders(self, names: Collection[str]) -> None:
        """Remove folders of these names, and this one, if nothing is in them; no link is followed.

        Stores have no folders, so that nothing is done there.
        """
        if uris.scheme(self.uri):
            return
        for name in names:
            for folder, _, _ in os.walk(self._at(name), topdown=False, followlinks=False):
                with suppress(OSError):
                    Path(folder).rmdir()
        with suppress(OSError):
            Path(self.uri).rmdir()

    def discard(self, path: str) -> None:
        """Remove a file that nobody reads any more; it stays where people may not delete."""
        try:
            self.delete(path)
        except UserError as error:
            logger.info("%s; the file is left, nobody reads it", error)

    def _at(self, path: str) -> str:
        return uris.join(self.uri, uris.check_relative(path))

    def _call(self, doing: str, uri: str, operation: Callable[[_Store], T]) -> T:
        return _call(doing, uri, operation, self._root)


def fetch(uri: str, target: str | os.PathLike[str]) -> None:
    """Copy a file at a path or URL to a local path, which is not written atomically.

    Raises:
        UserError: it has more bytes than may be fetched, see `download_limit`.
    """
    place = uris.normalise(uri)

    def copy(store: _Store) -> None:
        limit = DownloadLimit(redact(place), Path(target).parent)
        store.fetch(place, os.fspath(target), limit)

    _call("fetch", place, copy)


def read_image_file(
    uri: str, places: ImagePlaces, max_bytes: int = 0, size_bytes: int | None = None
) -> bytes:
    """Return the content of an image file.

    Args:
        uri: local path or URL.
        places: from where images may be read.
        max_bytes: larger files are refused before they are read; 0: no limit.
        size_bytes: the size as listed, which saves a request to a remote store.

    Raises:
        ImageError: `not_found`, `permission_denied`, `storage_error`, `empty_file`, `too_large`,
            or `not_an_image` for a folder or pipe.
    """
    with _as_image_errors(uri, max_bytes):
        read = partial(_read_limited, places=places, max_bytes=max_bytes)
        data = _read_under_some_name(uris.normalise(uri), read, size_bytes)
    if not data:
        raise ImageError(ErrorCode.EMPTY_FILE, f"{redact(uri)} has no bytes")
    return data


def read_image_part(uri: str, places: ImagePlaces, begin: int, num_bytes: int) -> bytes:
    """Return a part of a file that holds images, fewer bytes where the file ends.

    Args:
        uri: local path or URL.
        places: from where images may be read.
        begin: of the part.
        num_bytes: 0 or more.

    Raises:
        ImageError: `not_found`, `permission_denied`, `storage_error`, or `not_an_image` for a
            folder or pipe.
    """
    part = ByteRange(begin, num_bytes)

    def attempt(deadline: Deadline) -> bytes:
        if not uris.scheme(place):
            return read_regular_part(place, *part)
        try:
            return RemoteFiles(place, deadline).read_part(place, part, places)
        except failures.client_errors() as error:
            if failures.is_behind_end(error):
                return b""
            raise

    with _as_image_errors(uri):
        place = places.checked(uris.normalise(uri))
        return retrying(attempt, "read", place, is_image=True) if num_bytes else b""


@dataclass(frozen=True)
class FileParts:
    """Returns parts of a file that holds images when it is called, see `read_image_part`.

    Attributes:
        uri: local path or URL.
        places: from where images may be read.
    """

    uri: str
    places: ImagePlaces

    def __call__(self, begin: int, num_bytes: int) -> bytes:
        """Return a part, fewer bytes where the file ends."""
        return read_image_part(self.uri, self.places, begin, num_bytes)


@contextmanager
def _as_image_errors(uri: str, max_bytes: int = 0) -> Iterator[None]:
    try:
        yield
    except NotAFileError as error:
        raise ImageError(ErrorCode.NOT_AN_IMAGE, str(error)) from error
    except FileTooLargeError as error:
        message = (
            f"{redact(uri)} has {error.size_bytes} bytes, more than image.max_bytes = {max_bytes}"
        )
        raise ImageError(ErrorCode.TOO_LARGE, message) from error
    except FileNotFoundError as error:
        raise ImageError(ErrorCode.NOT_FOUND, str(error)) from error
    except PermissionError as error:
        raise ImageError(ErrorCode.PERMISSION_DENIED, str(error)) from error
    except (StorageError, UserError, OSError) as error:
        raise ImageError(ErrorCode.STORAGE_ERROR, redact(str(error))) from error


def _read_under_some_name(
    place: str, read: Callable[[str, int | None], bytes], size_bytes: int | None
) -> bytes:
    """Read a file; where there is none, one whose name is the same to a person.

    Lists write accents composed that a disk has decomposed, or the reverse, and backslashes.
    """
    try:
        return read(place, size_bytes)
    except FileNotFoundError:
        forms = [unicodedata.normalize(form, place) for form in ("NFC", "NFD")]
        names = [*forms, *(form.replace("\\", "/") for form in forms)]
        for other in dict.fromkeys(names):
            with suppress(FileNotFoundError):
                if other != place:
                    return read(uris.normalise(other), None)
        raise


def _read_limited(
    place: str, size_bytes: int | None, *, places: ImagePlaces, max_bytes: int
) -> bytes:
    allowed = places.checked(place)

    def attempt(deadline: Deadline) -> bytes:
        if not uris.scheme(allowed):
            return read_regular_file(allowed, max_bytes)
        return RemoteFiles(allowed, deadline).read_image(allowed, size_bytes, max_bytes, places)

    return retrying(attempt, "read", place, is_image=True)


_WRITES = ("write", "create", "delete")


def _call(doing: str, uri: str, operation: Callable[[_Store], T], root: str = "") -> T:
    """Return the result of an operation on the store of a normalised URI, with retries.

    Args:
        doing: the words between "cannot" and the URI in messages.
        uri: of the file or folder; decides on the store.
        operation: repeatable.
        root: below this local folder no link is followed; empty: links are followed.
    """

    def attempt(deadline: Deadline) -> T:
        return operation(RemoteFiles(uri, deadline) if uris.scheme(uri) else LocalFiles(root))

    with _as_user_errors():
        return retrying(attempt, doing, uri, is_write=doing in _WRITES)


@contextmanager
def _as_user_errors() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UserError(str(error)) from error


@contextmanager
def _place_for_files() -> Iterator[None]:
    """Turn errors of a writer whose folder cannot be made into a UserError."""
    try:
        yield
    except (FileNotFoundError, FileExistsError) as error:
        raise UserError(
            f"{error}; no folder can be made there (a part of the path is a file, or there is no "
            "such bucket or disk): choose another place"
        ) from error
