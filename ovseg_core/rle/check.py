"""What compressed run lengths are before anything else reads them: masks of their image, or not.

pycocotools and the functions of this package that work on runs trust run lengths: where they end
early, are negative or have sums that wrap around, they read memory that is not theirs, or end the
process. So every text that this process did not write is checked here first, many masks at once.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.runs import FIRST_CHARACTER, MORE_GROUPS, numbers_of
from schemas.untrusted import MAX_PIXELS

Texts = tuple[NDArray[np.uint8], NDArray[np.integer]]
"""The characters of many texts, one after another, and N + 1 places where each begins and ends."""

_FEW_PIXELS = 1 << 29
"""Below this, lengths and their differences have 30 bits: 6 groups, and sums of two fit 32 bits."""
_MAX_GROUPS = 7
_LAST = 2 * MORE_GROUPS - 1
_CHARACTERS = 1 << 17
"""Length of texts whose arrays fit into a processor's cache."""
_FREED_BYTES = 16 << 20
"""More than the arrays of one part take together."""


class MaskFacts(NamedTuple):
    """What run lengths of N masks say.

    The area of a mask that is not sound means nothing, nor does its box, nor that of one that is
    not canonical.
    """

    is_sound: NDArray[np.bool_]
    """(N,) whether the lengths are those of a mask of the stated size with one pixel or more."""
    is_canonical: NDArray[np.bool_]
    """(N,) whether no run but the first one is empty: pycocotools' unions need that."""
    area_px: NDArray[np.int64]
    """(N,) pixels in the mask."""
    boxes_xywh: NDArray[np.int64]
    """(N, 4) tight boxes."""


def texts_of(counts: Sequence[str]) -> Texts:
    """Return texts as `mask_facts` takes them."""
    data = [text.encode("utf-8", "surrogatepass") for text in counts]
    places = np.cumsum([0, *map(len, data)])
    return np.frombuffer(b"".join(data), np.uint8), places


def check_counts(counts: str, size_hw: SizeHW) -> None:
    """Refuse compressed run lengths that are not those of a mask of this size, empty ones allowed.

    Raises:
        ValueError: says what was expected.
    """
    height, width = size_hw
    if min(size_hw) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"expected an image of 1 to {MAX_PIXELS} pixels, got {width} x {height}")
    facts = _facts(texts_of([counts]), np.array([size_hw]))
    if not facts.is_sound[0]:
        raise ValueError(
            f"expected compressed run lengths of {width} x {height} pixels as COCO writes them, "
            f"got {counts[:20]!r}"
        )


def mask_facts(texts: Texts, sizes_hw: NDArray[np.integer]) -> MaskFacts:
    """Return what the run lengths of many masks say. No text whatsoever is an error.

    Args:
        texts: compressed run lengths of N masks.
        sizes_hw: (N, 2) of the image of each; no mask is sound where they are no size of an image.
    """
    _keep_freed_memory()
    sizes = sizes_hw.astype(np.int64, copy=False)
    parts = [_facts(part, sizes[begin:end]) for part, begin, end in _parts(texts)]
    if not parts:
        parts = [_nothing(0)]
    found = MaskFacts(*map(np.concatenate, zip(*parts, strict=True)))
    return found._replace(is_sound=found.is_sound & (found.area_px > 0))


@cache
def _keep_freed_memory() -> None:
    """Let the process keep freed memory for the next part, where glibc allocates it.

    It gives the arrays of each part back to the system otherwise, and to get and clear the pages
    of the next ones takes as long as the check. Freeing one large block raises that limit; its
    pages are never touched.
    """
    np.empty(_FREED_BYTES, np.uint8)


def _parts(texts: Texts) -> Iterator[tuple[Texts, int, int]]:
    """Yield texts that fit into a processor's cache together, and which they are."""
    data, places = texts
    begin, count = 0, len(places) - 1
    while begin < count:
        fitting = int(np.searchsorted(places, places[begin] + _CHARACTERS, side="right")) - 1
        end = min(max(fitting, begin + 1), count)
        low, high = int(places[begin]), int(places[end])
        yield (data[low:high], places[begin : end + 1] - low), begin, end
        begin = end


def _nothing(count: int) -> MaskFacts:
    flags, zeros = np.zeros(count, bool), np.zeros(count, np.int64)
    return MaskFacts(flags, flags.copy(), zeros, np.zeros((count, 4), np.int64))


def _facts(texts: Texts, sizes: NDArray[np.int64]) -> MaskFacts:
    height, width = sizes.T
    low, high = np.minimum(height, width), np.maximum(height, width)
    has_size = (low >= 1) & (high <= MAX_PIXELS // np.maximum(low, 1))
    num_pixels = np.where(has_size, low * high, 0)
    is_few = bool((num_pixels < _FEW_PIXELS).all())
    readable = has_size & _is_readable(texts, _MAX_GROUPS - is_few)
    if readable.all():
        return _facts_of_numbers(texts, height, num_pixels, np.int32 if is_few else np.int64)
    found, which = _nothing(len(sizes)), np.flatnonzero(readable)
    if len(which):
        some = _facts(_taken(texts, which), sizes[which])
        for all_values, values in zip(found, some, strict=True):
            all_values[which] = values
    return found


def _taken(texts: Texts, which: NDArray[np.int64]) -> Texts:
    data, places = texts
    kept = [data[places[k] : places[k + 1]] for k in which.tolist()]
    return np.concatenate(kept), np.cumsum([0, *map(len, kept)])


def _is_readable(texts: Texts, max_groups: int) -> NDArray[np.bool_]:
    """Return (N,) whether texts are one number or more, each of no more groups than it may have."""
    data, places = texts
    groups = data - np.uint8(FIRST_CHARACTER)
    readable = places[1:] > places[:-1]
    readable[readable] = groups[places[1:][readable] - 1] < MORE_GROUPS
    found = [np.flatnonzero(groups >= 2 * MORE_GROUPS)] if groups.max(initial=0) > _LAST else []
    long = groups >= MORE_GROUPS
    for _ in range(max_groups - 1):  # sets those that as many others follow
        long = long[:-1] & long[1:]
    if long.any():
        found.append(np.flatnonzero(long))
    for wrong in found:
        readable[np.searchsorted(places, wrong, side="right") - 1] = False
    return readable


def _facts_of_numbers(
    texts: Texts, height: NDArray[np.int64], num_pixels: NDArray[np.int64], kind: type
) -> MaskFacts:
    """Return what texts say that are whole numbers.

    A number has so few bits that the first length that is none, and the first sum of lengths that
    is no place in an image, are negative numbers also where they wrap around.
    """
    numbers, cuts = numbers_of(*texts, kind)
    begin, count = cuts[:-1], np.diff(cuts)
    of_several = begin[count > 2]
    numbers[of_several + 2] -= numbers[of_several]  # the third number is no difference
    area = np.zeros(len(begin), np.int64)
    for turn in (0, 1):
        in_turn = begin + ((begin ^ turn) & 1)
        has_any = in_turn < cuts[1:]
        first = in_turn[has_any] >> 1
        ours = numbers[turn::2] = _sums(numbers[turn::2].copy(), first)
        are_inside = (in_turn > begin)[has_any]
        area[has_any & (in_turn > begin)] = np.add.reduceat(ours, first, 0, kind)[are_inside]
    lengths, places = numbers, _sums(numbers.copy(), begin)
    is_sound = places[cuts[1:] - 1] == num_pixels
    for values in (lengths, places):
        if values.min() < 0:
            is_sound[np.searchsorted(cuts, np.flatnonzero(values < 0), side="right") - 1] = False
    is_canonical = np.ones(len(begin), bool)
    if len(lengths) - np.count_nonzero(lengths) > np.count_nonzero(lengths[begin] == 0):
        empty = lengths == 0
        empty[begin] = False
        is_canonical = ~np.logical_or.reduceat(empty, begin)
    is_inside = np.zeros(len(lengths), bool)
    is_inside[1::2] = True
    is_inside ^= np.repeat((begin & 1).astype(bool), count)
    side = height.astype(kind)
    side = side[0] if (side == side[0]).all() else np.repeat(side, count)
    return MaskFacts(is_sound, is_canonical, area, _boxes(places, is_inside, cuts, side))


def _sums(values: NDArray, begin: NDArray[np.int64]) -> NDArray:
    """Return the running sums of values, which begin again at each place; changes the values."""
    sums = np.add.reduceat(values, begin, 0, values.dtype)
    values[begin[1:]] -= sums[:-1]
    return np.add.accumulate(values, 0, values.dtype)


def _boxes(
    places: NDArray[np.integer],
    is_inside: NDArray[np.bool_],
    cuts: NDArray[np.int64],
    side: NDArray[np.integer],
) -> NDArray[np.int64]:
    """Return (N, 4) the tight boxes of sound masks in canonical form.

    Args:
        places: where each run ends, which is where the next one begins.
        is_inside: which runs are of pixels in the mask.
        cuts: mask k has the runs from `cuts[k]` to before `cuts[k + 1]`.
        side: height of the image of all masks, or of each run's.
    """
    begin, end = cuts[:-1], cuts[1:]
    ends_outside = np.flatnonzero(~is_inside[end - 1] & (end - begin > 1))
    pixels = places - is_inside  # the first of a run inside, then its last
    pixels[end[ends_outside] - 1] = pixels[end[ends_outside] - 2]
    column = pixels // side
    row = pixels - column * side
    left, right = column[begin], column[end - 1]
    top, bottom = np.minimum.reduceat(row, begin), np.maximum.reduceat(row, begin)
    spans = is_inside.copy()  # over a column's end: the bottom row and the top row
    spans[1:] &= column[1:] != column[:-1]
    spans[begin] = False
    spanning = np.logical_or.reduceat(spans, begin)
    top[spanning] = 0
    bottom[spanning] = (side if side.ndim == 0 else side[begin][spanning]) - 1
    corners = (left, top, right - left + 1, bottom - top + 1)
    return np.column_stack([values.astype(np.int64) for values in corners])
