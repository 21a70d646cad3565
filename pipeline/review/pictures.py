"""Pictures for the browser, made when they are first looked at and forgotten again.

Photographs are decoded by the job's own reader: the frame, EXIF turn included, is that of the
masks. Regions travel as a PNG whose pixels are numbers, so that the page colours them itself.
"""

import io
import os
from collections.abc import Sequence
from threading import BoundedSemaphore
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg_core.resize.nearest import SizeHW, to_size
from ovseg_core.rle.encode import decode as decode_rle
from pipeline.collection.decode import DecodedImage
from pipeline.collection.image_source import read_image, ref_of
from pipeline.collection.overlay import tinted
from pipeline.review.cache import BoundedCache
from pipeline.review.index import ReviewIndex
from pipeline.review.masks import Masks, Segment
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError, UserError

Size = Literal["small", "large"]
SIDE_PX: dict[Size, int] = {"small": 360, "large": 2048}
"""Longer side of a picture: in the grid, and where one is looked at alone."""
_KEPT_BYTES = 96 << 20
_DECODERS = max(2, os.cpu_count() or 2)
"""Images decoded at once: each may take a few hundred megabytes."""


class Pictures:
    """Makes the pictures of a run's images.

    Args:
        index: where the images are; there is no other way to name one.
        masks: their segments.
        config: limits of the job's reader.
    """

    def __init__(self, index: ReviewIndex, masks: Masks, config: ImageConfig) -> None:
        """Begin with none."""
        self.index = index
        self._masks = masks
        self._config = config
        self.kept: BoundedCache[bytes] = BoundedCache(_KEPT_BYTES, len)
        self._decoders = BoundedSemaphore(_DECODERS)

    def photo(self, row: int, size: Size) -> bytes:
        """Return the photograph as JPEG.

        Raises:
            ImageError: it cannot be read.
        """
        return self.kept.get((row, size), lambda: self._photo(row, size))

    def tint(self, row: int) -> bytes:
        """Return the masks in their labels' colours as a small PNG, else transparent."""
        return self.kept.get((row, "tint"), lambda: self._tint(row))

    def regions(self, row: int) -> bytes:
        """Return the numbers of the segments, see `number_png`."""
        return self.kept.get((row, "regions"), lambda: self._regions(row))

    def _photo(self, row: int, size: Size) -> bytes:
        image = self.index.image(row)
        with self._decoders:
            decoded = read_image(ref_of(image), self._config, SIDE_PX[size])
        now, then = (decoded.height, decoded.width), (image["height"], image["width"])
        if image["status"] == "ok" and now != then:
            raise UserError(
                f"{image['path']} was replaced since the run: it is {now[1]} x {now[0]} pixels now "
                f"and was {then[1]} x {then[0]}; the masks are those of the old one"
            )
        return photo_jpeg(decoded, size)

    def _tint(self, row: int) -> bytes:
        size_hw = self._size(row)
        with self._decoders:
            segments = self._masks.of(row)
            labels = painted(segments, size_hw, "small", [one["category_id"] for one in segments])
            return png(tinted(labels, labels.shape))

    def _regions(self, row: int) -> bytes:
        size_hw = self._size(row)
        with self._decoders:
            return number_png(self._masks.of(row), size_hw)

    def _size(self, row: int) -> SizeHW:
        image = self.index.image(row)
        if image["status"] != "ok":
            raise ImageError(ErrorCode(image["error_code"]), image["error_message"])
        return image["height"], image["width"]


def fit(size_hw: SizeHW, side_px: int) -> SizeHW:
    """Return the size with its longer side at most `side_px`."""
    scale = min(1.0, side_px / max(size_hw))
    return max(1, round(scale * size_hw[0])), max(1, round(scale * size_hw[1]))


def photo_jpeg(decoded: DecodedImage, size: Size) -> bytes:
    """Return a decoded image as JPEG, its longer side at most `SIDE_PX[size]`."""
    height, width = fit((decoded.height, decoded.width), SIDE_PX[size])
    photo = Image.fromarray(decoded.rgb)
    if photo.size != (width, height):
        photo = photo.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=82 if size == "small" else 90)
    return buffer.getvalue()


def painted(
    segments: Sequence[Segment], size_hw: SizeHW, size: Size, values: Sequence[int]
) -> NDArray[np.uint16]:
    """Return the segments' values on a picture of that size; 0 where there is none."""
    small_hw = fit(size_hw, SIDE_PX[size])
    canvas = np.zeros(small_hw, np.uint16)
    for segment, value in zip(segments, values, strict=True):
        # Reduced before it is painted: a photograph of 12 megapixels has many masks.
        canvas[to_size(decode_rle(segment["rle_counts"], size_hw), small_hw) > 0] = value
    return canvas


def number_png(segments: Sequence[Segment], size_hw: SizeHW) -> bytes:
    """Return a PNG whose pixels name the segment that they lie in.

    Red + 256 x green is the segment's place in the list, from 1; 0 is none. The picture is as large
    as the large photograph. A browser reads RGB without change as long as there is no alpha.
    """
    small = painted(segments, size_hw, "large", range(1, 1 + len(segments)))
    rgb = np.stack([small & 255, small >> 8, np.zeros_like(small)], axis=-1).astype(np.uint8)
    return png(Image.fromarray(rgb))


def png(picture: Image.Image) -> bytes:
    """Return a picture as PNG, packed quickly."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
