"""Many small files of an export, written several at a time."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.collection.image_source import read_bytes
from pipeline.storage.folder import Folder
from schemas.errors import ImageError
from schemas.records import ImageRef

_WRITERS = 16
"""Files on their way at once: a bucket answers each put after tens of milliseconds."""
_WAITING = 4 * _WRITERS


def png(picture: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Return a picture (H, W) or (H, W, 3 as blue, green, red) as a PNG file."""
    good, data = cv2.imencode(".png", picture)
    if not good:
        raise ValueError(f"no PNG of {picture.shape} {picture.dtype}")
    return data.tobytes()


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

    def copy_image(self, name: str, ref: ImageRef, max_bytes: int) -> None:
        """Copy a photograph; one that cannot be read any more is counted in `num_unreadable`."""
        self.put(name, lambda: read_bytes(ref, max_bytes))

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
