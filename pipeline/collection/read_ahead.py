"""Members of remote archives that lie side by side are fetched by one request.

The time of a request to a store is often longer than that of the bytes of an image. The worker says
which images it is going to read; those whose bytes are neighbours share a span, which the first
reader fetches and the last one lets go.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline.collection import packed
from pipeline.collection.image_source import read_bytes
from pipeline.storage import uris
from pipeline.storage.folder import read_image_part
from pipeline.storage.http import ByteRange
from pipeline.storage.places import ImagePlaces
from schemas.errors import ImageError
from schemas.records import ImageRef

MAX_SPAN_BYTES = 2 << 20
"""Fetched by one request; of several spans that are fetched at once each is a part of the time."""
MAX_GAP_BYTES = 1 << 16
"""Bytes between two images that are fetched along, such as the texts of WebDataset."""
MAX_HELD_BYTES = 64 << 20
"""Of all spans that are fetched and not read to the end; images beyond are fetched one by one."""


@dataclass
class _Span:
    """Neighbours in one archive."""

    archive: str
    begin: int
    end: int
    images: set[str]
    """Ids of those that are not read yet."""
    data: bytes | None = None
    is_tried: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class ReadAhead:
    """Reads images as `image_source.read_bytes` does; safe for threads.

    Args:
        places: from where images may be read.
    """

    def __init__(self, places: ImagePlaces) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._spans: dict[str, _Span] = {}
        self._was_read: set[str] = set()
        self._held_bytes = 0

    def expect(self, refs: Sequence[ImageRef]) -> None:
        """Say which images are read next, in whatever order; what was said before counts no more.

        Args:
            refs: those that were read since the last call are not fetched again.
        """
        ids = {ref.image_id for ref in refs}
        with self._lock:
            self._was_read &= ids
            for span in {id(span): span for span in self._spans.values()}.values():
                for image_id in span.images - ids:
                    self._let_go(span, image_id)
            is_known = self._was_read | self._spans.keys()
            fresh = [ref for ref in refs if ref.image_id not in is_known]
            for span in _spans(fresh):
                self._spans |= dict.fromkeys(span.images, span)

    def read_bytes(self, ref: ImageRef, max_bytes: int) -> bytes:
        """Return an image as the content of a file, see `image_source.read_bytes`."""
        with self._lock:
            self._was_read.add(ref.image_id)
            span = self._spans.get(ref.image_id)
        if span is None:
            return read_bytes(ref, max_bytes, self._places)
        try:
            data = self._fetched(span)
            member = uris.member_of(ref.uri)
            if data is None or member is None:
                return read_bytes(ref, max_bytes, self._places)

            def part(begin: int, num_bytes: int) -> bytes:
                if span.begin <= begin and begin + num_bytes <= span.end:
                    return data[begin - span.begin : begin - span.begin + num_bytes]
                return read_image_part(span.archive, self._places, begin, num_bytes)

            return packed.read_member(member, max_bytes, part)
        finally:
            with self._lock:
                self._let_go(span, ref.image_id)

    def _fetched(self, span: _Span) -> bytes | None:
        """Return the bytes of a span; None where images are to be read one by one."""
        with span.lock:
            if not span.is_tried:
                span.is_tried = True
                num_bytes = span.end - span.begin
                with self._lock:
                    if self._held_bytes + num_bytes > MAX_HELD_BYTES:
                        return None
                    self._held_bytes += num_bytes
                with suppress(ImageError):  # each of its images says for itself what is wrong
                    span.data = read_image_part(span.archive, self._places, span.begin, num_bytes)
                if span.data is None:
                    with self._lock:
                        self._held_bytes -= num_bytes
            return span.data

    def _let_go(self, span: _Span, image_id: str) -> None:
        self._spans.pop(image_id, None)
        span.images.discard(image_id)
        if not span.images and span.data is not None:
            self._held_bytes -= span.end - span.begin
            span.data = None


def _spans(refs: Sequence[ImageRef]) -> list[_Span]:
    """Return what is fetched at once; without images that have no neighbours."""
    found: list[tuple[str, ByteRange, str]] = []
    for ref in refs:
        member = uris.member_of(ref.uri)
        part = None if member is None else packed.span_of(member)
        if member is not None and part is not None and uris.scheme(member.archive):
            found.append((member.archive, part, ref.image_id))
    spans: list[_Span] = []
    for archive, part, image_id in sorted(found):
        last, end = spans[-1] if spans else None, part.begin + part.num_bytes
        if (
            last is not None
            and last.archive == archive
            and part.begin <= last.end + MAX_GAP_BYTES
            and end <= last.begin + MAX_SPAN_BYTES
        ):
            last.end = max(last.end, end)
            last.images.add(image_id)
        else:
            spans.append(_Span(archive, part.begin, end, {image_id}))
    return [span for span in spans if len(span.images) > 1]
