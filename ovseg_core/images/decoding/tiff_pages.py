"""The pages of a TIFF: which one is the image.

The directories are read here and not by Pillow, whose time grows with the square of their number
and which stops at the first page that it cannot decode.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.errors import ErrorCode, ImageError

MAX_PAGES = 100_000
"""More are refused: a file can be made of directories alone."""

_NEW_SUBFILE_TYPE, _WIDTH, _HEIGHT, _SUBFILE_TYPE, _SUB_IFDS = 254, 256, 257, 255, 330
_TAGS = (_NEW_SUBFILE_TYPE, _WIDTH, _HEIGHT, _SUBFILE_TYPE, _SUB_IFDS)
_REDUCED_OR_MASK = 1 | 4
_OLD_REDUCED = 2
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""Types of numbers that these tags may have, and their form."""


@dataclass(frozen=True)
class TiffPages:
    """The pages of a file.

    Attributes:
        count: pages, without images that are attached to a page (SubIFDs).
        places: of the directories that may be the image, best first: of the images that are not
            marked as a reduced copy or a mask the largest, the first of equal ones. Of a file in
            which all are marked, of all.
    """

    count: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class _Form:
    """How a file writes its directories: byte order, and the sizes of classic or big TIFF."""

    order: str
    is_big: bool

    @property
    def pointer(self) -> str:
        return "Q" if self.is_big else "I"

    @property
    def pointer_at(self) -> int:
        return 8 if self.is_big else 4


def pages_of(data: bytes) -> TiffPages:
    """Return the pages of a TIFF; what is damaged is left out.

    Raises:
        ImageError: `too_large`: more than `MAX_PAGES` pages or attached images.
    """
    form = _form(data)
    candidates: list[tuple[bool, int, int]] = []
    count, num_seen = 0, 0
    seen: set[int] = set()
    place = _number(data, form.order + form.pointer, form.pointer_at)
    while place and place not in seen:
        seen.add(place)
        tags, after = _directory(data, form, place)
        if after is None:
            break
        count += bool(_area(tags))
        attached = [sub for sub in tags.get(_SUB_IFDS, ()) if sub not in seen]
        for part, numbers in ((place, tags), *_directories(data, form, attached)):
            num_seen += 1
            if num_seen > MAX_PAGES:
                raise ImageError(ErrorCode.TOO_LARGE, f"a TIFF of more than {MAX_PAGES:,} pages")
            if area := _area(numbers):
                candidates.append((_is_marked(numbers), -area, part))
        place = after
    whole = [candidate for candidate in candidates if not candidate[0]] or candidates
    return TiffPages(count, tuple(part for *_, part in sorted(whole, key=lambda one: one[1])))


def with_first_page(data: bytes, place: int) -> bytes:
    """Return a TIFF whose first directory is the one at a place."""
    form = _form(data)
    if _number(data, form.order + form.pointer, form.pointer_at) == place:
        return data
    pointer = struct.pack(form.order + form.pointer, place)
    return data[: form.pointer_at] + pointer + data[form.pointer_at + len(pointer) :]


def _form(data: bytes) -> _Form:
    return _Form("<" if data[:2] == b"II" else ">", b"\x2b" in data[2:4])


def _is_marked(numbers: dict[int, tuple[int, ...]]) -> bool:
    kind = _first(numbers, _NEW_SUBFILE_TYPE)
    return bool(kind & _REDUCED_OR_MASK) or _first(numbers, _SUBFILE_TYPE) == _OLD_REDUCED


def _area(numbers: dict[int, tuple[int, ...]]) -> int:
    return _first(numbers, _WIDTH) * _first(numbers, _HEIGHT)


def _first(numbers: dict[int, tuple[int, ...]], tag: int) -> int:
    return numbers.get(tag, (0,))[0]


def _directories(
    data: bytes, form: _Form, places: list[int]
) -> Iterator[tuple[int, dict[int, tuple[int, ...]]]]:
    for place in places:
        yield place, _directory(data, form, place)[0]


def _directory(
    data: bytes, form: _Form, place: int
) -> tuple[dict[int, tuple[int, ...]], int | None]:
    """Return the numbers of the tags in `_TAGS`, and the place of the next directory.

    The place is 0 after the last one and None where the directory does not lie in the file.
    """
    number, entry = ("Q", "HHQ8s") if form.is_big else ("H", "HHI4s")
    entries = struct.Struct(form.order + entry)
    num_entries = _number(data, form.order + number, place)
    start = place + struct.calcsize(form.order + number)
    end = start + (num_entries or 0) * entries.size
    if not num_entries or end > len(data):
        return {}, None
    found = {
        tag: numbers
        for tag, kind, count, inline in entries.iter_unpack(data[start:end])
        if tag in _TAGS and (numbers := _numbers(data, form, kind, count, inline))
    }
    # Some writers leave the last pointer out.
    return found, _number(data, form.order + form.pointer, end) or 0


def _numbers(data: bytes, form: _Form, kind: int, count: int, inline: bytes) -> tuple[int, ...]:
    """Return the numbers of an entry; none where they are of another type or not in the file."""
    if kind not in _NUMBERS or not 0 < count <= MAX_PAGES:
        return ()
    packed = struct.Struct(f"{form.order}{count}{_NUMBERS[kind]}")
    if packed.size <= len(inline):
        return packed.unpack_from(inline)
    [place] = struct.unpack(form.order + form.pointer, inline)
    return packed.unpack_from(data, place) if place + packed.size <= len(data) else ()


def _number(data: bytes, form: str, place: int) -> int | None:
    size = struct.calcsize(form)
    return struct.unpack_from(form, data, place)[0] if place + size <= len(data) else None
