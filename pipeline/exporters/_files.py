"""What formats with a file for each image need: names of their own, and many writes at once."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from types import TracebackType

from pipeline.rundir import RunDir
from pipeline.storage import Folder

_WRITERS = 16
"""Files on their way at once: a bucket answers each put after tens of milliseconds."""
_WAITING = 4 * _WRITERS


class Names:
    """File names for the images of a run, finished or not, so that names never change later."""

    def __init__(self, run: RunDir) -> None:
        """Read the manifest."""
        self._paths = set(run.manifest().column("path").to_pylist())
        self._stems = Counter(_stem(path) for path in self._paths)

    def stem(self, path: str) -> str:
        """Return an image's path without its ending; with it where another has the same stem."""
        return _stem(path) if self.is_plain(path) else path

    def is_plain(self, path: str) -> bool:
        """Tell whether the ending could be left off."""
        stem = _stem(path)
        return self._stems[stem] == 1 and (stem not in self._paths or stem == path)


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def flat(path: str) -> str:
    """Return a path as one name, `a/b.jpg` as `a__b.jpg`; no two paths get the same."""
    parts = path.split("/")
    joined = "__".join(parts)
    if all("__" not in part and part == part.strip("_") for part in parts):
        return joined
    # Underscores of its own make a name ambiguous.
    name = PurePosixPath(joined)
    return f"{name.stem}-{hashlib.sha256(path.encode()).hexdigest()[:12]}{name.suffix}"


class Files:
    """Writes many small files into an export's folder, several at a time.

    A context manager: at its end all files are written, and those that an earlier export left
    behind are gone; after an error nothing is deleted.
    """

    def __init__(self, place: Folder, ours: Callable[[str], bool]) -> None:
        """Begin.

        Args:
            place: the export's folder.
            ours: tells of a name in it whether it may be left from an earlier export.
        """
        self._place = place
        self._ours = ours
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._waiting: deque[Future[None]] = deque()
        self._written: set[str] = set()

    def put(self, name: str, data: bytes) -> None:
        """Write a file, perhaps a little later; errors come with a later call or at the end."""
        self._written.add(name)
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._place.atomic_write, name, data))

    def __enter__(self) -> "Files":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is on its way; delete what is left over."""
        self._pool.shutdown(cancel_futures=error is not None)
        if error is not None:
            return
        for future in self._waiting:
            future.result()
        for name in self._place.list():
            if self._ours(name) and name not in self._written:
                self._place.delete(name)
