"""Plain TIFF files that Pillow does not write: 16-bit channels, planes, pages, attached images."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

SHORT, LONG = 3, 4


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        pixels: uint8 or uint16 (h, w, channels).
        tags: SHORTs in addition to those that describe the pixels, or in their place.
        are_planes_apart: all of one channel first, then all of the next.
        attached: images that hang on the page (SubIFDs).
    """

    pixels: np.ndarray
    tags: Mapping[int, int] = field(default_factory=dict)
    are_planes_apart: bool = False
    attached: tuple["Page", ...] = ()


def tiff_file(*pages: Page, order: str = "<", is_big: bool = False) -> bytes:
    """Return a TIFF of pages, unpacked; order is that of bytes, `<` or `>`."""
    pointer = f"{order}{'Q' if is_big else 'I'}"
    mark = b"II" if order == "<" else b"MM"
    file = bytearray(mark + struct.pack(f"{order}H", 43 if is_big else 42))
    file += struct.pack(f"{order}HH", 8, 0) if is_big else b""
    link = len(file)
    file += bytes(struct.calcsize(pointer))
    for page in pages:
        place, next_link = _write(file, page, order, is_big)
        struct.pack_into(pointer, file, link, place)
        link = next_link
    return bytes(file)


def _write(file: bytearray, page: Page, order: str, is_big: bool) -> tuple[int, int]:
    """Append a page; return the places of its directory and of the pointer to the next one."""
    attached = [_write(file, part, order, is_big)[0] for part in page.attached]
    height, width, channels = page.pixels.shape
    stored = np.moveaxis(page.pixels, -1, 0) if page.are_planes_apart else page.pixels
    stored = stored.astype(stored.dtype.newbyteorder(order))
    num_strips = channels if page.are_planes_apart else 1
    size = stored.nbytes // num_strips
    start = _append(file, stored.tobytes())
    numbers = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [8 * stored.dtype.itemsize] * channels),
        259: (SHORT, [1]),
        262: (SHORT, [2 if channels > 2 else 1]),
        273: (LONG, [start + strip * size for strip in range(num_strips)]),
        277: (SHORT, [channels]),
        278: (LONG, [height]),
        279: (LONG, [size] * num_strips),
        284: (SHORT, [2 if page.are_planes_apart else 1]),
        **({330: (LONG, attached)} if attached else {}),
        **{tag: (SHORT, [value]) for tag, value in page.tags.items()},
    }
    room, counter = (8, "Q") if is_big else (4, "I")
    entries = b""
    for tag, (kind, values) in sorted(numbers.items()):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        if len(packed) > room:
            packed = struct.pack(f"{order}{counter}", _append(file, packed))
        entries += struct.pack(f"{order}HH{counter}", tag, kind, len(values))
        entries += packed.ljust(room, b"\0")
    head = struct.pack(f"{order}{'Q' if is_big else 'H'}", len(numbers))
    place = _append(file, head + entries)
    return place, _append(file, bytes(room))


def _append(file: bytearray, part: bytes) -> int:
    file += part
    return len(file) - len(part)
