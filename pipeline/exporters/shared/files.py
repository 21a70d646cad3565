"""What formats with a file for each image need: names of their own, and many writes at once."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.exporters.shared.losses import LossReport
from pipeline.run.folder import RunFolder
from pipeline.storage.folder import Folder, read_uri
from schemas.errors import ImageError

_WRITERS = 16
"""Files on their way at once: a bucket answers each put after tens of milliseconds."""
_LONGEST_NAME = 255
"""Bytes of a file's name that usual disks take."""
_WAITING = 4 * _WRITERS


class Names:
    """File names for the images of a run, finished or not, so that names never change later."""

    def __init__(self, run: RunFolder, losses: LossReport) -> None:
        """Read the manifest."""
        self._losses = losses
        self._paths = set(run.manifest().column("path").to_pylist())
        self._stems = Counter(_stem(path) for path in self._paths)
        self._unused = set(self._paths)

    def of_image(self, path: str) -> str:
        """Return an image's path without its ending; with it where another has the same stem."""
        self._unused.discard(path)
        name = self._name(path)
        if name != _stem(path):
            self._losses.lost("file names keep the image's ending: another image has the same stem")
        return name

    def unused(self) -> Iterator[str]:
        """Yield the names of the images that were not asked for: failed, or not annotated."""
        return map(self._name, self._unused)

    def _name(self, path: str) -> str:
        stem = _stem(path)
        is_free = self._stems[stem] == 1 and (stem not in self._paths or stem == path)
        return stem if is_free else path


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def png(picture: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Return a picture (H, W) or (H, W, 3 as blue, green, red) as a PNG file."""
    good, data = cv2.imencode(".png", picture)
    if not good:
        raise ValueError(f"no PNG of {picture.shape} {picture.dtype}")
    return data.tobytes()


def flat(path: str) -> str:
    """Return a path as one name, `a/b.jpg` as `a__b.jpg`; no two paths get the same."""
    parts = path.split("/")
    joined = "__".join(parts)
    is_clear = all("__" not in part and part == part.strip("_") for part in parts)
    if is_clear and len(joined.encode()) <= _LONGEST_NAME:
        return joined
    # Underscores of its own make a name ambiguous; deep folders make one that no disk takes.
    name, digest = PurePosixPath(joined), hashlib.sha256(path.encode()).hexdigest()[:12]
    room = max(0, _LONGEST_NAME - len(f"-{digest}{name.suffix}".encode()))
    return f"{name.stem.encode()[:room].decode(errors='ignore')}-{digest}{name.suffix}"


class Files:
    """Writes many small files into an export's folder, several at a time; a context manager."""

    def __init__(self, place: Folder) -> None:
        """Begin.

        Args:
            place: the export's folder.
        """
        self._place = place
        self._pool = ThreadPoolExecutor(_WRITERS)
        self._waiting: deque[Future[None]] = deque()
        self._unreadable: list[str] = []

    def put(self, name: str, data: bytes | Callable[[], bytes]) -> None:
        """Write a file, perhaps a little later; errors come with a later call or at the end.

        Args:
            name: below the folder.
            data: the content, or what makes it, in a thread of its own.
        """
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._write, name, data))

    def copy_image(self, name: str, uri: str, max_bytes: int) -> None:
        """Copy a photograph; one that cannot be read any more is counted in `num_unreadable`."""
        self.put(name, lambda: read_uri(uri, max_bytes))

    def _write(self, name: str, data: bytes | Callable[[], bytes]) -> None:
        try:
            content = data if isinstance(data, bytes) else data()
        except ImageError:
            self._unreadable.append(name)
        else:
            self._place.atomic_write(name, content)

    def remove_old(self, names: Iterable[str]) -> None:
        """Delete files that an earlier export wrote and this one has no reason to."""
        wanted = set(names)
        for name in self._place.list() if wanted else ():
            if name in wanted:
                self._place.delete(name)

    @property
    def num_unreadable(self) -> int:
        """Photographs that could not be copied, known at the end."""
        return len(self._unreadable)

    def __enter__(self) -> "Files":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is on its way."""
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            for future in self._waiting:
                future.result()
