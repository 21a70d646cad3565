"""What every export does in the same order: read the run, write the files, `LOSSES.txt` last.

`ExportOptions.masks` says whose masks are written; a format that reads the run through `Export`
(`images`, or the shards of `reader`) has nothing else to do for it.
"""

import logging
import re
import tempfile
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from ovseg_core.images.decoding.decode import check_image_header
from pipeline.curation.image_lists import listed_images
from pipeline.exporters.shared import segments
from pipeline.exporters.shared.corrected_run import CorrectedRun, MaskSource
from pipeline.exporters.shared.loss_report import LOSSES_FILE, LossReport
from pipeline.exporters.shared.segments import SegmentKind
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages
from pipeline.run.reader import Row
from pipeline.storage import uris
from pipeline.storage.local import FileTooLargeError
from pipeline.storage.waiting import StorageThreads
from schemas.base import Frozen
from schemas.errors import ErrorCode, ImageError
from schemas.redact import redact
from schemas.untrusted import printable

logger = logging.getLogger(__name__)

_WRITERS = 16
"""Files written at once: a bucket answers each put after tens of milliseconds."""
_MAX_WAITING = 4 * _WRITERS
_MAX_LOSSES_BYTES = 1 << 20
_UNREADABLE = "photographs that cannot be read any more"
_REPLACED = "photographs that were replaced since the run by some of another size"
_NO_IMAGE = "photographs whose file is no image that can be decoded"
_WHY_LEFT_OUT = {
    ErrorCode.PERMISSION_DENIED: "photographs that may not be read, or from a place that is not "
    "confirmed (--images-root)",
    ErrorCode.TOO_LARGE: "photographs that are too large",
    **dict.fromkeys(
        (ErrorCode.NOT_AN_IMAGE, ErrorCode.EMPTY_FILE, ErrorCode.TRUNCATED, ErrorCode.UNDECODABLE),
        _NO_IMAGE,
    ),
}


class ExportOptions(Frozen):
    """The options that every exporter has."""

    masks: MaskSource | None = None
    """Whose masks: `predicted`, `reviewed` (only those that people decided on) or `merged` (theirs,
    and predicted ones where nobody has decided); null: `merged` once a review exists, else
    `predicted`."""
    only: str = ""
    """Only the images of a list file, such as `ovseg sample` writes; empty: all of the run."""

    def wanted(self, run: RunFolder) -> frozenset[str] | None:
        """Return the `image_id` of the images that are wanted; None: all.

        Raises:
            CollectionError: the list cannot be read.
            UserError: it names no image of the run.
        """
        return listed_images(run, self.only) if self.only else None


class Export:
    """One export of a run; a context manager.

    A format with a file for each image gives every file to `put`; a format of few large files
    makes them at `local_file` and gives them to `upload`. At the end of the block LOSSES.txt is
    written; an error leaves it out.

    Until its first file is written, an export leaves an older one as it is. If that one had other
    options, its LOSSES.txt and its index are deleted then, so that files of two exports are not
    taken for one if this export is interrupted.

    Args:
        run: the run.
        folder: of the export, in the run folder.
        options: of the exporter.
        title: the first line of LOSSES.txt.
        not_held: what the format has no place for in any run, one phrase each.
        index: the file that names the others; empty: there is none.

    Attributes:
        reader: the finished part of the run, with the corrections that the options ask for.
        losses: the counts for LOSSES.txt.
        folder: of the export.
        photographs: reads the run's images.
        open_files: closes local files and helper processes, also after an error.
    """

    def __init__(
        self,
        run: RunFolder,
        folder: str,
        options: ExportOptions,
        title: str,
        not_held: Sequence[str] = (),
        index: str = "",
    ) -> None:
        self.reader = CorrectedRun(run, options.masks, options.wanted(run))
        only = redact(uris.normalise(options.only)) if options.only else ""
        resolved = options.model_copy(update={"masks": self.reader.masks, "only": only})
        self.photographs = RunImages(run)
        note = self.photographs.note_on_models
        if note:
            logger.warning("%s", note)
        self.losses = LossReport(title, resolved, not_held, self.reader.summary, note)
        for what, count in self.reader.num_left_out.items():
            if count:
                self.losses.count_lost(what, count)
        if options.only:
            self.losses.count_lost("images that are not in the list", self.reader.num_unwanted)
        self.folder = run.folder.child(folder)
        self.open_files = ExitStack()
        self._index = index
        self._has_begun = False
        self._pool = StorageThreads(_WRITERS)
        self._writes: deque[Future[None]] = deque()
        self._unreadable: list[tuple[str, str]] = []

    def __enter__(self) -> "Export":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the writers; write LOSSES.txt unless there was an error."""
        with self.open_files:
            self._pool.__exit__(kind, error, traceback)
            if error is None:
                self._finish_writes()
                for name, what in sorted(self._unreadable):
                    self.losses.name_lost(what, printable(name))
                self._count_damaged()
                self.write(LOSSES_FILE, self.losses.text().encode())

    def _count_damaged(self) -> None:
        for what, damage in self.reader.left_out().items():
            for name in damage.first:
                self.losses.name_lost(what, name)
            self.losses.count_lost(what, damage.count - len(damage.first))

    def images(
        self, kind: SegmentKind = "as_run", min_score: float = 0.0, min_area_px: int = 0
    ) -> Iterator[tuple[Row, list[Row]]]:
        """Yield every annotated image with its segments, see `segments.images`."""
        return segments.images(self.reader, self.losses, kind, min_score, min_area_px)

    def local_file(self, name: str) -> Path:
        """Return where to make a file that is uploaded when it is complete."""
        return self._local / name

    @cached_property
    def _local(self) -> Path:
        temporary = tempfile.TemporaryDirectory(prefix="ovseg-export-")
        return Path(self.open_files.enter_context(temporary))

    def put(self, name: str, data: bytes | Callable[[], bytes]) -> None:
        """Write a file in a thread; its error is raised by a later call or at the end.

        Args:
            name: path below the export's folder.
            data: the content, or a function that makes it in the thread.
        """
        self._begin()
        if len(self._writes) >= _MAX_WAITING:
            self._writes.popleft().result()
        self._writes.append(self._pool.submit(self._write, name, data))

    def copy_image(self, name: str, image: Row) -> None:
        """Copy an image of the collection as it is.

        One that cannot be read any more, and a file that is no image, is not copied and is counted.

        Args:
            name: of the copy, below the export's folder.
            image: its row, see `images`.
        """

        def content() -> bytes:
            data = self.photographs.read_bytes(image)
            check_image_header(data, self.photographs.config)
            return data

        self.put(name, content)

    def count_unreadable(self, image: Row, error: ImageError | None) -> None:
        """Count a photograph that is left out of the export, with the reason.

        Args:
            image: row of the image.
            error: why it cannot be read; None: it was replaced by one of another size.
        """
        why = _REPLACED if error is None else _WHY_LEFT_OUT.get(error.code, _UNREADABLE)
        self._unreadable.append((image["path"], why))

    def write(self, name: str, data: bytes) -> None:
        """Write a file after all that were given to `put`."""
        self._begin()
        self._finish_writes()
        self.folder.atomic_write(name, data)

    def upload(self, files: Iterable[Path]) -> None:
        """Move local files into the export's folder, after all that were given to `put`."""
        self._begin()
        self._finish_writes()
        for file in files:
            self.folder.put_file(file.name, file)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files of an older export; names without a file are no error."""
        old = set(names)
        for name in self.folder.list() if old else ():
            if name in old:
                self.folder.delete(name)

    def remove_matching(self, pattern: re.Pattern[str], keep: Container[str]) -> None:
        """Delete files of an older export whose whole name matches, except those to keep."""
        for name in self.folder.list():
            if pattern.fullmatch(name) and name not in keep:
                self.folder.delete(name)

    def _begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        try:
            data = self.folder.read_bytes(LOSSES_FILE, _MAX_LOSSES_BYTES)
        except FileNotFoundError:
            return
        except FileTooLargeError:  # ovseg did not write it
            data = b""
        old = data.decode(errors="replace").splitlines()
        if self.losses.options_line not in old:
            for name in filter(None, (self._index, LOSSES_FILE)):
                self.folder.delete(name)

    def _write(self, name: str, data: bytes | Callable[[], bytes]) -> None:
        try:
            content = data if isinstance(data, bytes) else data()
        except ImageError as error:
            self._unreadable.append((name, _WHY_LEFT_OUT.get(error.code, _UNREADABLE)))
        else:
            self.folder.atomic_write(name, content)

    def _finish_writes(self) -> None:
        while self._writes:
            self._writes.popleft().result()


def png_bytes(picture: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Return a picture (H, W) or (H, W, 3 as blue, green, red) as a PNG file."""
    is_written, data = cv2.imencode(".png", picture)
    if not is_written:
        raise ValueError(f"OpenCV writes no PNG of shape {picture.shape}, {picture.dtype}")
    return data.tobytes()
