"""Pictures for the browser, made when they are first shown and kept in memory for a while.

Images are decoded as the job decodes them, so that their frame (EXIF orientation applied) is that
of the masks. Segments are sent as a PNG whose pixels are numbers; the page chooses the colours.
"""

import io
import os
from collections.abc import Callable, Sequence
from threading import BoundedSemaphore, Condition
from typing import Any, Literal

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray
from PIL import Image

from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.images.overlay import tinted
from ovseg_core.images.resize.nearest import SizeHW, to_size
from ovseg_core.rle.encode import decode_rle
from pipeline.review.index import ReviewIndex
from pipeline.run.images import RunImages, other_size
from pipeline.run.tables.damaged import is_image_size, size_problem
from schemas.errors import ErrorCode, ImageError, UserError

Size = Literal["small", "large"]
Kind = Literal["small", "large", "tint", "segments"]
SIDE_PX: dict[Size, int] = {"small": 360, "large": 2048}
"""Longer side of a picture: in the grid, and of a single image."""
MAX_LAYERS = 8
"""Masks at one pixel that the page can show and pick; more are in its list only."""
MAX_NUMBER = 65_535
"""Masks of an image that have a number, two bytes a pixel; further ones are in no picture."""
_DECODERS = max(2, os.cpu_count() or 2)
"""Images decoded at the same time: each may take a few hundred megabytes."""


class Pictures:
    """Makes the pictures of a run's images; safe for threads, each picture is made once.

    Args:
        index: the run's images; pictures are named by row, never by path.
        images: reads them.
        kept_bytes: of all pictures in memory.
    """

    def __init__(self, index: ReviewIndex, images: RunImages, kept_bytes: int = 96 << 20) -> None:
        self._index = index
        self._images = images
        self._decoders = BoundedSemaphore(_DECODERS)
        kept: LRUCache[tuple[int, Kind, tuple[int, ...]], bytes] = LRUCache(kept_bytes, len)
        self._made_once: Callable[[int, Kind, tuple[int, ...]], bytes] = cached(
            kept, key=lambda row, kind, looks: (row, kind, looks), condition=Condition()
        )(self._make)

    def get(self, row: int, kind: Kind, looks: tuple[int, ...] = ()) -> bytes:
        """Return a picture of an image.

        Args:
            row: of the index.
            kind: `small` or `large`: the image as JPEG; `tint`: a small PNG of the masks in the
                labels' colours, transparent elsewhere; `segments`: see `number_png`.
            looks: category id of each mask for `tint`, negative: its outline alone is drawn; empty:
                as predicted.

        Raises:
            ImageError: the image cannot be read, or failed in the run.
            UserError: the image was replaced since the run.
        """
        return self._made_once(row, kind, looks)

    def _make(self, row: int, kind: Kind, looks: tuple[int, ...]) -> bytes:
        image = self._index.image(row)
        with self._decoders:
            if kind in ("small", "large"):
                return self._photo(image, kind)
            if image["status"] != "ok":
                raise ImageError(ErrorCode(image["error_code"]), image["error_message"])
            if not is_image_size(image):
                raise UserError(f"the image's row in the run is damaged: {size_problem(image)}")
            size_hw = image["height"], image["width"]
            segments = self._index.segments_of(row)[:MAX_NUMBER]
            if kind == "segments":
                return number_png(segments, size_hw, self._index.may_overlap)
            for segment, look in zip(segments, looks, strict=False):
                segment["category_id"], segment["is_hollow"] = abs(look), look < 0
            if self._index.may_overlap:
                segments.sort(key=lambda one: -(one["area_px"] or 0))  # smaller ones on top
            places = painted(segments, size_hw, "small", range(1, 1 + len(segments)))
            labels = np.array([0, *(one["category_id"] for one in segments)], np.uint16)[places]
            rims = places if self._index.may_overlap else None
            is_hollow = np.array([False, *(one.get("is_hollow", False) for one in segments)])
            hollow = is_hollow[places] if is_hollow.any() else None
            return _png(tinted(labels, labels.shape, self._index.labels, rims, hollow))

    def _photo(self, image: dict[str, Any], size: Size) -> bytes:
        decoded = self._images.read_image(image, SIDE_PX[size])
        if image["status"] == "ok" and (problem := other_size(decoded, image)):
            raise UserError(f"{image['path']}: {problem}")
        return photo_jpeg(decoded, size)


def thumbnail_size(size_hw: SizeHW, side_px: int) -> SizeHW:
    """Return the size with its longer side at most `side_px`."""
    scale = min(1.0, side_px / max(size_hw))
    return max(1, round(scale * size_hw[0])), max(1, round(scale * size_hw[1]))


def photo_jpeg(decoded: DecodedImage, size: Size) -> bytes:
    """Return a decoded image as JPEG, its longer side at most `SIDE_PX[size]`."""
    height, width = thumbnail_size((decoded.height, decoded.width), SIDE_PX[size])
    photo = Image.fromarray(decoded.rgb)
    if photo.size != (width, height):
        photo = photo.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=82 if size == "small" else 90)
    return buffer.getvalue()


def painted(
    segments: Sequence[dict[str, Any]], size_hw: SizeHW, size: Size, values: Sequence[int]
) -> NDArray[np.uint16]:
    """Return a picture (h, w) with each segment's value, 0 elsewhere, no larger than `size`.

    Segments without run lengths (damaged ones) are not in it. Values are 1 to `MAX_NUMBER`.
    """
    small_hw = thumbnail_size(size_hw, SIDE_PX[size])
    canvas = np.zeros(small_hw, np.uint16)
    for segment, value in zip(segments, values, strict=True):
        if not segment["rle_counts"]:
            continue
        # Each mask is reduced before it is painted: large photographs have many masks.
        canvas[to_size(decode_rle(segment["rle_counts"], size_hw), small_hw) > 0] = value
    return canvas


def number_png(
    segments: Sequence[dict[str, Any]], size_hw: SizeHW, may_overlap: bool = False
) -> bytes:
    """Return a PNG, as wide as the large picture, whose pixels number the segments.

    Red + 256 x green is the place of the segment in the list, from 1; 0 is none. Blue + 1 is the
    number of layers, which lie below each other in the file: see `layers`. There is no alpha
    channel, because browsers change the colours of pixels that have one. Segments after the first
    `MAX_NUMBER` are not in it.

    Args:
        segments: of the image.
        size_hw: of the image.
        may_overlap: whether they are instances; others have one layer.
    """
    segments = segments[:MAX_NUMBER]
    if may_overlap:
        stack = layers(segments, size_hw)
    else:
        stack = painted(segments, size_hw, "large", range(1, 1 + len(segments)))[None]
    rows = stack.reshape(-1, stack.shape[2])
    blue = np.full_like(rows, len(stack) - 1)
    return _png(Image.fromarray(np.stack([rows & 255, rows >> 8, blue], axis=-1).astype(np.uint8)))


def layers(segments: Sequence[dict[str, Any]], size_hw: SizeHW) -> NDArray[np.uint16]:
    """Return the segments (L, h, w) that lie over each other at every pixel, the smallest first.

    Their places in the list, of `MAX_NUMBER` at most, count from 1; 0 is none. Of more than
    `MAX_LAYERS` the largest are not in it.
    """
    small_hw = thumbnail_size(size_hw, SIDE_PX["large"])
    depth = np.zeros(small_hw, np.uint8)
    found = [np.zeros(small_hw, np.uint16)]
    for place in sorted(range(len(segments)), key=lambda place: segments[place]["area_px"] or 0):
        if not segments[place]["rle_counts"]:
            continue
        box = _small_box(segments[place]["bbox_xywh"], size_hw, small_hw)
        inside = to_size(decode_rle(segments[place]["rle_counts"], size_hw), small_hw)[box] > 0
        depth_inside = depth[box]
        inside &= depth_inside < MAX_LAYERS
        for level in range(int(depth_inside.max(initial=0, where=inside)) + 1):
            if level == len(found):
                found.append(np.zeros(small_hw, np.uint16))
            found[level][box][inside & (depth_inside == level)] = place + 1
        depth_inside[inside] += 1
    return np.stack(found)


def _small_box(
    bbox_xywh: Sequence[float], size_hw: SizeHW, small_hw: SizeHW
) -> tuple[slice, slice]:
    """Return where a box of an image lies in a picture of it, with a pixel all round."""
    left, top, width, height = bbox_xywh
    sides = ((top, height, size_hw[0], small_hw[0]), (left, width, size_hw[1], small_hw[1]))
    rows, columns = (
        slice(max(0, int(begin * small / full) - 1), int((begin + length) * small / full) + 2)
        for begin, length, full, small in sides
    )
    return rows, columns


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
