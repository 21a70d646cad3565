"""Images that a browser sent: in memory only, few, small, and named by their content."""

import hashlib
from dataclasses import dataclass
from threading import BoundedSemaphore

from pipeline.collection.decode import DecodedImage, decode
from pipeline.review.cache import BoundedCache
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError

MAX_BYTES = 32 << 20
MAX_PIXELS = 40_000_000
_KEPT_BYTES = 4 * MAX_BYTES
_DECODERS = 2
"""Images decoded at once: each may take half a gigabyte."""


@dataclass(frozen=True)
class Upload:
    """An image file that was decoded once, so it can be again."""

    key: str
    data: bytes
    height: int
    width: int


class Uploads:
    """The last few uploads; the oldest are forgotten.

    Args:
        config: limits of the job, which may be tighter than those of an upload.
    """

    def __init__(self, config: ImageConfig) -> None:
        """Begin with none."""
        self.config = config.model_copy(
            update={"max_pixels": min(MAX_PIXELS, config.max_pixels), "max_bytes": MAX_BYTES}
        )
        self._kept: BoundedCache[Upload] = BoundedCache(_KEPT_BYTES, lambda one: len(one.data))
        self._decoders = BoundedSemaphore(_DECODERS)

    def add(self, data: bytes) -> Upload:
        """Take an image in.

        Raises:
            ImageError: too large, or no image.
        """
        if len(data) > MAX_BYTES:
            raise ImageError(ErrorCode.TOO_LARGE, f"more than {MAX_BYTES >> 20} MB")
        with self._decoders:
            decoded = decode(data, self.config, side_px=64)
        key = hashlib.sha256(data).hexdigest()
        upload = Upload(key, data, decoded.height, decoded.width)
        self._kept.keep(key, upload)
        return upload

    def find(self, key: str) -> Upload | None:
        """Return an upload; None where it was forgotten."""
        return self._kept.find(key)

    def decode(self, upload: Upload, side_px: int) -> DecodedImage:
        """Decode an upload within the limits, see `pipeline.collection.decode`."""
        with self._decoders:
            return decode(upload.data, self.config, side_px)
