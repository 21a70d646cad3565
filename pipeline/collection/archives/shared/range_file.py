"""A file of a store that is read by parts, as a Python file: for libraries that list archives."""

import io

from pipeline.collection.archives.shared.members import ArchiveError
from pipeline.storage.folder import read_image_part
from pipeline.storage.places import ImagePlaces
from schemas.redact import redact

LEAST_BYTES, MOST_BYTES = 1 << 14, 1 << 22
"""Read at once: the least after a jump; it doubles while what is asked for lies side by side."""


class RangeFile(io.RawIOBase):
    """Reads a file by parts, and keeps the last one.

    Args:
        uri: local path or URL.
        size_bytes: of the whole.
        etag: the store's version of it; empty where it has none.
        places: from where it may be read.
        column: that has the images of a table; empty: not said.

    Attributes:
        max_bytes: that are asked for at once; more are taken for a forged header.
    """

    def __init__(
        self, uri: str, size_bytes: int, etag: str, places: ImagePlaces, column: str = ""
    ) -> None:
        self.uri, self.size_bytes, self.etag = uri, size_bytes, etag
        self.column = column
        self.max_bytes = 1 << 24
        self._places = places
        self._place = self._begin = 0
        self._part = b""
        self._ahead = LEAST_BYTES

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another place."""
        base = (0, self._place, self.size_bytes)[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, fewer at the end.

        Raises:
            ArchiveError: more than `max_bytes`.
            ImageError: the store does not give them.
        """
        left = max(0, self.size_bytes - self._place)
        size = left if size is None or size < 0 else min(size, left)
        if size > self.max_bytes:
            raise ArchiveError(
                f"{redact(self.uri)}: a header of {size:,} bytes at byte {self._place:,}: expected "
                f"at most {self.max_bytes:,}; it is damaged, or no archive"
            )
        data = self.part(self._place, size)
        self._place += len(data)
        return data

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Fill a buffer as far as there are bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def part(self, begin: int, num_bytes: int) -> bytes:
        """Return a part of the file, fewer bytes where it ends."""
        end = begin + num_bytes
        if not self._begin <= begin <= end <= self._begin + len(self._part):
            known_until = self._begin + len(self._part)
            is_near = known_until <= begin + LEAST_BYTES and begin <= known_until + LEAST_BYTES
            self._ahead = min(MOST_BYTES, self._ahead * 2) if is_near else LEAST_BYTES
            wanted = min(max(num_bytes, self._ahead), max(0, self.size_bytes - begin))
            self._part = read_image_part(self.uri, self._places, begin, wanted)
            self._begin = begin
        return self._part[begin - self._begin : end - self._begin]
