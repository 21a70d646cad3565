"""Which page of a TIFF is the image."""

import struct
import time

import numpy as np
import pytest

from ovseg_core.images.decoding.decode import decode
from ovseg_core.images.decoding.tiff_pages import MAX_PAGES, pages_of, with_first_page
from schemas.config import ImageConfig
from schemas.errors import ErrorCode, ImageError
from tests.helpers.image_files import picture
from tests.helpers.tiff_files import Page, tiff_file

REDUCED, MASK, OLD_REDUCED = {254: 1}, {254: 4}, {255: 2}
SMALL, LARGE, LARGER = picture(6, 10), 255 - picture(24, 40), picture(36, 50)
NOT_DECODED = {262: 32803}
"""The colours of a camera's raw data."""


def chosen(*pages: Page, **options: bool | str) -> tuple[int, int, int]:
    """Return height and width of the page that is annotated, and the number of pages."""
    found = decode(tiff_file(*pages, **options), ImageConfig())
    return found.height, found.width, found.num_frames


@pytest.mark.parametrize(("order", "is_big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize(
    "pages",
    [
        [Page(LARGE)],
        [Page(LARGE), Page(SMALL)],
        [Page(SMALL), Page(LARGE)],
        [Page(LARGER, REDUCED), Page(LARGE), Page(SMALL)],
        [Page(LARGER, MASK), Page(LARGE)],
        [Page(LARGER, OLD_REDUCED), Page(LARGE)],
        [Page(SMALL, REDUCED, attached=(Page(LARGE), Page(LARGER, REDUCED)))],
        [Page(LARGE, attached=(Page(SMALL),))],
        [Page(LARGE, REDUCED), Page(SMALL, REDUCED)],
    ],
)
def test_largest_page_that_is_no_reduced_copy_is_taken(
    pages: list[Page], order: str, is_big: bool
) -> None:
    data = tiff_file(*pages, order=order, is_big=is_big)
    found = decode(data, ImageConfig())
    np.testing.assert_array_equal(found.rgb, LARGE)
    assert found.num_frames == len(pages)


def test_of_equal_pages_the_first_is_taken() -> None:
    data = tiff_file(Page(SMALL), Page(LARGE), Page(255 - LARGE))
    np.testing.assert_array_equal(decode(data, ImageConfig()).rgb, LARGE)


def test_page_that_cannot_be_read_gives_way_to_the_next_largest_but_to_no_reduced_copy() -> None:
    raw = Page(LARGER, NOT_DECODED)
    assert chosen(Page(SMALL), raw, Page(LARGE)) == (24, 40, 3)
    with pytest.raises(ImageError) as caught:
        chosen(Page(LARGE, REDUCED, attached=(raw,)))
    assert caught.value.code == ErrorCode.UNDECODABLE


def test_pages_after_the_thousandth_are_looked_at_quickly() -> None:
    tiny = Page(picture(2, 3))
    data = tiff_file(*[tiny] * 4000, Page(LARGE))
    start = time.process_time()
    found = decode(data, ImageConfig())
    assert time.process_time() - start < 2
    assert (found.height, found.width, found.num_frames) == (24, 40, 4001)


def test_too_many_pages_are_a_code() -> None:
    entry = struct.pack("<HHII", 256, 3, 1, 1)
    pages = b"".join(
        struct.pack("<H", 1) + entry + struct.pack("<I", 8 + 18 * (page + 1))
        for page in range(MAX_PAGES + 1)
    )
    with pytest.raises(ImageError, match="more than 100,000 pages") as caught:
        decode(b"II*\0\x08\0\0\0" + pages, ImageConfig())
    assert caught.value.code == ErrorCode.TOO_LARGE


def test_directories_in_a_circle_end() -> None:
    data = bytearray(tiff_file(Page(LARGE), Page(SMALL)))
    [first] = struct.unpack_from("<I", data, 4)
    struct.pack_into("<I", data, len(data) - 4, first)
    assert pages_of(bytes(data)).count == 2


def test_damaged_directories_are_left_out() -> None:
    data = tiff_file(Page(LARGE), Page(LARGER))
    found = pages_of(data)
    assert found.count == 2
    cut = pages_of(data[: found.places[0] + 20])
    assert (cut.count, cut.places) == (1, (found.places[1],))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(4, len(data), 3):
            damaged[place] = int(rng.integers(0, 256))
        assert all(with_first_page(bytes(damaged), at) for at in pages_of(bytes(damaged)).places)
