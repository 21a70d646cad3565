"""Files of this machine, written whole or not at all, whenever the process or machine stops.

A file is written under a hidden name beside its target, forced to disk, then renamed or linked.
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.storage import uris
from schemas.errors import ConfigError, UserError

TEMPORARY_SUFFIX = ".part"
"""End of the hidden names under which files are written."""
DOWNLOAD_LIMIT_ENV = "OVSEG_MAX_DOWNLOAD_GB"
"""Environment variable: GB (10^9 bytes) that one fetched file may have."""
DEFAULT_DOWNLOAD_LIMIT_GB = 20.0
"""The largest weights that open_clip names have 10 GB."""
_KEPT_FREE_BYTES = 256 << 20
_LOOK_EVERY_BYTES = 64 << 20


class LocalFiles:
    """The operations of a store, on absolute local paths.

    Args:
        root: below this folder no symbolic link is followed, whatever the operation; empty: links
            are followed everywhere.
    """

    def __init__(self, root: str = "") -> None:
        self._root = root

    def read(self, path: str, max_bytes: int = 0) -> bytes:
        """Return the whole content, see `read_regular_file`."""
        self._check_links(path)
        return read_regular_file(path, max_bytes)

    def size(self, path: str) -> int:
        """Return the size in bytes; FileNotFoundError where there is no file."""
        self._check_links(path)
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(f"not a file: {path}")
        return status.st_size

    def walk(self, folder: str) -> Iterator[tuple[str, int | None, str]]:
        """Yield (path relative to the folder, size in bytes, "") of all regular files below it.

        The size is None for a link to nowhere or that is not followed, and for a folder that may
        not be read, whose path ends in `/`.
        """
        self._check_links(folder)
        if Path(folder).is_dir():
            files = _walk(folder, "", frozenset(), follow_links=not self._root, by_path=True)
            for name, status in files:
                yield name, None if status is None else status.st_size, ""

    def write(self, path: str, data: bytes) -> None:
        """Write or replace."""
        self._check_links(path)
        with _finished_beside(path, lambda file: file.write(data)) as temporary:
            temporary.replace(path)

    def put(self, path: str, source: str) -> None:
        """Move another local file here; from another disk it is copied."""
        self._check_links(path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(source).open("r+b") as content:
            os.fsync(content.fileno())
        try:
            Path(source).replace(path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(path, source)

    def _copy(self, path: str, source: str) -> None:
        with (
            Path(source).open("rb") as content,
            _finished_beside(path, lambda file: shutil.copyfileobj(content, file)) as temporary,
        ):
            temporary.replace(path)

    def create(self, path: str, data: bytes) -> None:
        """Write a new file; FileExistsError where there is one."""
        self._check_links(path)
        with _finished_beside(path, lambda file: file.write(data)) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links: claim the name, then fill it
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                temporary.replace(path)

    def remove(self, path: str) -> None:
        """Delete; no error where there is nothing."""
        self._check_links(path)
        Path(path).unlink(missing_ok=True)

    def fetch(self, path: str, target: str, limit: "DownloadLimit") -> None:
        """Copy to another local path, within a limit."""
        self._check_links(path)
        limit.check(Path(path).stat().st_size)
        shutil.copyfile(path, target)

    def _check_links(self, path: str) -> None:
        """Check that no part of a path below the root is a symbolic link.

        Raises:
            UserError: one is.
        """
        if not self._root:
            return
        place = self._root
        for name in filter(None, path[len(self._root) :].split("/")):
            place = uris.join(place, name)
            if Path(place).is_symlink():
                raise UserError(
                    f"{place} is a symbolic link: inside a run folder none is followed, since it "
                    "may lead to files that are nobody's to read or change; put the real file or "
                    "folder there"
                )


def make_private(folder: str) -> None:
    """Make a folder, if there is none, and let nobody but this user look into it."""
    Path(folder).mkdir(0o700, parents=True, exist_ok=True)
    Path(folder).chmod(0o700)


def folder_state(folder: str, option: str) -> str:
    """Return a text that changes with a folder's files: `24 files, 3f2a9c01b2d4`.

    A hash of all names, sizes and times of change; the content is not read.

    Args:
        folder: local.
        option: dotted path of the option that names it, for the message.

    Raises:
        ConfigError: it does not exist, or may not be listed.
    """
    digest, count = hashlib.sha256(), 0
    try:
        for name, status in _walk(folder, "", frozenset()):
            if status is None and name.endswith("/"):
                raise ConfigError(f"{option}: the folder {folder}/{name} may not be read")
            if status is None:
                continue
            count += 1
            digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    except OSError as error:
        raise ConfigError(f"{option}: no folder at {folder} ({error.strerror})") from error
    return f"{count:,} files, {digest.hexdigest()[:12]}"


class NotAFileError(UserError):
    """A folder, pipe, device or socket in the place of a file.

    Args:
        path: where.
        mode: of its status.
    """

    def __init__(self, path: str, mode: int) -> None:
        """Say what it is: `kind`, with its article."""
        self.kind = next((kind for is_it, kind in _KINDS if is_it(mode)), "no regular file")
        super().__init__(f"{path} is {self.kind}, expected a file")
        self._given = path, mode

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        """Survive pickling, on the way from a worker."""
        return type(self), self._given


class FileTooLargeError(UserError):
    """A file of more bytes than are read; `size_bytes` are its own."""

    def __init__(self, path: str, size_bytes: int, max_bytes: int) -> None:
        """Name the file, its size and the limit."""
        self.size_bytes = size_bytes
        super().__init__(
            f"{path} has {size_bytes:,} bytes, expected at most {max_bytes:,}: it is damaged, or "
            "not what it is said to be"
        )
        self._given = path, size_bytes, max_bytes

    def __reduce__(self) -> tuple[type, tuple[str, int, int]]:
        """Survive pickling, on the way from a worker."""
        return type(self), self._given


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_regular_file(path: str, max_bytes: int = 0) -> bytes:
    """Return the content of a file; refuse one that is not regular or is too large.

    Args:
        path: of this machine; links are followed.
        max_bytes: of which the file may have no more; 0: no limit.

    Raises:
        NotAFileError: a folder, pipe, device or socket.
        FileTooLargeError: more bytes.
        OSError: as the system says.
    """
    with _opened(path) as (file, status):
        if not max_bytes:
            return file.read()
        size = status.st_size
        data = file.read(size + 1) if size <= max_bytes else b""  # memory for what is there only
        if len(data) > size:  # it has grown, or is one of the system's, which state no size
            data += file.read(max_bytes + 1 - len(data))
        if size > max_bytes or len(data) > max_bytes:
            raise FileTooLargeError(path, max(size, len(data)), max_bytes)
        return data


def read_regular_part(path: str, begin: int, num_bytes: int) -> bytes:
    """Return a part of a file, fewer bytes where it ends; see `read_regular_file`."""
    with _opened(path) as (file, _):
        file.seek(begin)
        return file.read(num_bytes)


@contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a regular file; give its status, too."""
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode):  # a socket cannot be opened, a device should not be
        raise NotAFileError(path, mode)
    # It may be another by now, and the open of a named pipe waits for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAFileError(path, status.st_mode)
        yield file, status


class DownloadLimit:
    """The limit of one file that is being fetched.

    Args:
        what: the file in words or as an address without secrets, for messages.
        folder: where it goes.

    Raises:
        ConfigError: the environment variable is not a positive number.
    """

    def __init__(self, what: str, folder: Path) -> None:
        self._what = what
        self._folder = folder
        self._limit_gb = _download_limit_gb()
        self._looked_at = -_LOOK_EVERY_BYTES

    def check(self, num_bytes: int, *, is_written: bool = False) -> None:
        """Check the size of the file, or the part of it that has come.

        Args:
            num_bytes: as its store states, or come so far; 0: not known.
            is_written: they lie on the disk already.

        Raises:
            UserError: more than the limit.
            OSError: ENOSPC: the disk has no room for them.
        """
        if num_bytes > self._limit_gb * 1e9:
            raise UserError(
                f"{self._what} has more than {self._limit_gb:g} GB, the limit of a file that is "
                f"fetched; if that is right, set {DOWNLOAD_LIMIT_ENV} to a higher one"
            )
        if is_written and num_bytes - self._looked_at < _LOOK_EVERY_BYTES:
            return
        self._looked_at = num_bytes
        free = shutil.disk_usage(self._folder).free
        if free < _KEPT_FREE_BYTES + (0 if is_written else num_bytes):
            needs = f"{self._what} of {num_bytes:,} bytes for {free:,} free ones"
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needs}", str(self._folder))


def _download_limit_gb() -> float:
    text = os.environ.get(DOWNLOAD_LIMIT_ENV, "")
    try:
        limit = float(text or DEFAULT_DOWNLOAD_LIMIT_GB)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise ConfigError(f"{DOWNLOAD_LIMIT_ENV}: expected GB, a positive number, but got {text!r}")
    return limit


@contextmanager
def _finished_beside(path: str, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name is cut: with the suffixes it must fit the usual limit of 255 bytes.
    stem = os.fsdecode(os.fsencode(target.name)[:180])
    temporary = target.with_name(f".{stem}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _walk(
    folder: str,
    prefix: str,
    above: frozenset[tuple[int, int]],
    *,
    follow_links: bool = True,
    by_path: bool = False,
) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield files sorted by their paths, else by the names of one folder after another."""
    status = Path(folder).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        # Names only: the entries of ten million files would take gigabytes.
        names = [_name_with_slash(entry, follow_links) for entry in entries]
    names.sort(key=None if by_path else _own_name)
    for name_with_slash in names:
        own_name = _own_name(name_with_slash)
        name, place = f"{prefix}{own_name}", uris.join(folder, own_name)
        try:
            if name_with_slash != own_name:
                inner = above | {here}
                yield from _walk(
                    place, f"{name}/", inner, follow_links=follow_links, by_path=by_path
                )
            else:
                yield from _file(name, place, follow_links)
        except PermissionError:
            yield f"{name}/", None
        except OSError as error:
            # Removed while we looked, or links that lead in a circle: no file that can be read.
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            if Path(place).is_symlink():
                yield name, None


def _file(name: str, place: str, follow_links: bool) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield a file or link; nothing for a pipe, device or socket."""
    status = os.lstat(place)
    is_link = stat.S_ISLNK(status.st_mode)
    if is_link and follow_links:
        status = Path(place).stat()
    if stat.S_ISREG(status.st_mode):
        yield name, status
    elif is_link:
        yield name, None


def _name_with_slash(entry: "os.DirEntry[str]", follow_links: bool) -> str:
    """Return a name, of a folder with the slash that follows it in paths."""
    try:
        is_folder = entry.is_dir(follow_symlinks=follow_links)
    except OSError:  # said when it is looked at
        is_folder = False
    return f"{entry.name}/" if is_folder else entry.name


def _own_name(name_with_slash: str) -> str:
    return name_with_slash.removesuffix("/")
