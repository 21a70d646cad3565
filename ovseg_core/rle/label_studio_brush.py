"""Label Studio's brush format: bit-packed run lengths of a row-major RGBA image.

    32 bits number of values, 5 bits word size - 1, four times 4 bits run width - 1 (3, 4, 8, 16);
    then items: 1 bit repeat, 2 bits which width, count - 1 in that width, and the value once (a
    repeat) or as often as the count says; zero bits up to a whole byte, eight if it is one already

A mask is 255 or 0 in all four channels. The value is an opacity: 1 would be stored, but invisible.
The bytes are those of Label Studio's own encoder, which never writes single values here: every run
of pixels is four times as long in values.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle import row_major
from ovseg_core.rle.runs import running_sums

SOLID = 127
"""Opacity above which a pixel is in the mask; strokes drawn by hand have soft rims."""
_CHANNELS = 4
_WIDTHS = np.array([3, 4, 8, 16])
_LONGEST = (1 << 16) // _CHANNELS
"""Pixels in one item."""
_HEADER_BITS = 32 + 5 + 4 * 4
_LONGEST_BYTES = (1 << 16) + 8
"""Of one item: as many values of 8 bits as a run can have."""
_PART = 1 << 14
"""Bytes that are decoded at a time: some hundred bytes of memory are taken for each."""


def encode_brushes(counts: Sequence[str], size_hw: SizeHW) -> list[NDArray[np.uint8]]:
    """Return the brush bytes of each mask of an image.

    Args:
        counts: COCO's compressed run lengths of the masks.
        size_hw: of the image.
    """
    return _packed(row_major.row_major_runs(counts, size_hw), size_hw[0] * size_hw[1])


def encode_brush(mask: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the brush bytes of a mask (H, W), 0 outside."""
    flat = np.concatenate([[False], np.ravel(mask).astype(bool), [False]])
    if len(flat) == 2:
        raise ValueError(f"expected a mask with pixels, got shape {mask.shape}")
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    rest = mask.size - int(edges[-1]) if len(edges) else mask.size
    runs = row_major.RowMajorRuns(np.diff(edges, prepend=0), [0, len(edges)], [rest])
    return _packed(runs, mask.size)[0]


def _make_items() -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Return size in bits, and bits at the upper end of 64, of an item of each length.

    The bits are those of the value 0 (first row) and 255 (second row). Length 0 has no item.
    """
    num_values = _CHANNELS * np.arange(_LONGEST + 1)
    kind = np.searchsorted(1 << _WIDTHS, num_values)
    width = _WIDTHS[kind]
    bits = ((4 | kind) << width | (num_values - 1)) << 8
    sizes = np.where(num_values, 11 + width, 0)
    both = np.where(num_values, [bits, bits | 255], 0).astype(np.uint64)
    return sizes.astype(np.uint8), both << (64 - sizes).astype(np.uint64)


_SIZES, _ITEMS = _make_items()
_SIZE_LIST, _ITEM_LISTS = _SIZES.tolist(), _ITEMS.tolist()


def _packed(runs: row_major.RowMajorRuns, num_pixels: int) -> list[NDArray[np.uint8]]:
    """Return the bytes of masks of `num_pixels` pixels; each mask begins at a word of 64 bits."""
    pairs = runs.lengths.reshape(-1, 2)
    sizes, items, long = _of_pairs(pairs)
    ends = np.concatenate([[0], running_sums(sizes)])
    bounds = np.array(runs.bounds) // 2
    header = _header(num_pixels) << 64 - _HEADER_BITS
    words, num_bytes, places, parts = [0], [], [], []
    for size, rest in zip(np.diff(ends[bounds]).tolist(), runs.rests, strict=True):
        begin = 64 * words[-1]
        end = _place_items([(_HEADER_BITS, header)], begin, places, parts) + size
        end = _place_items(_items_of_run(rest, 0), end, places, parts)
        num_bytes.append((end - begin) // 8 + 1)
        words.append(words[-1] + num_bytes[-1] // 8 + 1)
    shift = 64 * np.array(words)[:-1] + _HEADER_BITS - ends[bounds[:-1]]
    begins = ends[:-1] + np.repeat(shift, np.diff(bounds))
    for pair, run_items in long.items():
        _place_items(run_items, int(begins[pair]), places, parts)
    joined = np.zeros(words[-1] + 1, np.uint64)
    _join_in_order(begins, items, joined)
    _join(np.array(places, np.int64), np.array(parts, np.uint64), joined)
    data = joined.astype(">u8").view(np.uint8)
    return [data[8 * word :][:size] for word, size in zip(words, num_bytes, strict=False)]


def _header(num_pixels: int) -> int:
    header = (num_pixels * _CHANNELS) << 5 | 7
    for width in _WIDTHS.tolist():
        header = header << 4 | (width - 1)
    return header


def _of_pairs(pairs: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.uint64], dict]:
    """Return size and bits of pairs of runs (background, foreground), and the items of long ones.

    Few runs are longer than an item: the bits of their pairs are 0, and the items are returned by
    pair.
    """
    too_long = np.unique(np.flatnonzero(pairs > _LONGEST) // 2)
    long = {
        pair: [*_items_of_run(background, 0), *_items_of_run(foreground, 1)]
        for pair, (background, foreground) in zip(
            too_long.tolist(), pairs[too_long].tolist(), strict=True
        )
    }
    short = pairs.copy()
    short[too_long] = 0
    background, foreground = short[:, 0], short[:, 1]
    first = _SIZES.take(background)
    sizes = (first + _SIZES.take(foreground)).astype(np.int64)
    sizes[too_long] = [sum(size for size, _ in items) for items in long.values()]
    return sizes, _ITEMS[0].take(background) | _ITEMS[1].take(foreground) >> first, long


def _items_of_run(length: int, value: int) -> list[tuple[int, int]]:
    """Return size and bits of all items of a run of the value 0 (0) or 255 (1)."""
    bits, items = _ITEM_LISTS[value], []
    while length > _LONGEST:
        items.append((_SIZE_LIST[_LONGEST], bits[_LONGEST]))
        length -= _LONGEST
    if length:
        items.append((_SIZE_LIST[length], bits[length]))
    return items


def _place_items(items: list, place: int, places: list[int], parts: list[int]) -> int:
    """Place items one after another from a bit on; return the bit after them."""
    for size, bits in items:
        places.append(place)
        parts.append(bits)
        place += size
    return place


def _join(places: NDArray[np.int64], items: NDArray[np.uint64], words: NDArray[np.uint64]) -> None:
    """Write items, each from its place (a bit number) on."""
    word, offset = places >> 6, (places & 63).astype(np.uint64)
    np.bitwise_or.at(words, word, items >> offset)
    np.bitwise_or.at(words, word + 1, items << (64 - offset))  # by 64 at most, which leaves 0


def _join_in_order(
    places: NDArray[np.int64], items: NDArray[np.uint64], words: NDArray[np.uint64]
) -> None:
    """Do the same with items that follow one another, into empty words, twice as fast.

    No bits overlap, so the content of a word is the sum of the items that begin in it and the end
    of the item before them.
    """
    word = places >> 6
    last = np.flatnonzero(np.diff(word, append=-1))
    sums = running_sums(items >> (places & 63).astype(np.uint64)).take(last)
    sums[1:] -= sums[:-1].copy()
    word, offset = word.take(last), (places.take(last) & 63).astype(np.uint64)
    words[word] = sums
    words[word + 1] |= items.take(last) << (64 - offset)


def decode_brush(
    rle: Sequence[int] | NDArray[np.uint8], size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the opacity (H, W), 0 to 255, of brush bytes that any encoder wrote.

    It takes some bytes of memory for a pixel of the image, whatever the brush bytes say.

    Raises:
        ValueError: these are not brush bytes, or those of an image of another size.
    """
    data = _bytes_of(rle)
    windows = _windows(data[:8])
    num_values, word = int(_read(windows, 0, 32)), int(_read(windows, 32, 5)) + 1
    widths = [int(_read(windows, 37 + 4 * index, 4)) + 1 for index in range(4)]
    height, width = size_hw
    if num_values != height * width * _CHANNELS or word > 8:
        raise ValueError(
            f"expected brush bytes of {height * width * _CHANNELS} values (4 channels of "
            f"{width} x {height} pixels), got {num_values} values of {word} bits"
        )
    return _values(data, num_values, word, widths)[3::_CHANNELS].reshape(size_hw)


def _bytes_of(rle: Any) -> NDArray[np.uint8]:
    try:
        data = np.asarray(rle)
    except (ValueError, OverflowError, RecursionError):  # lists of lists
        data = np.empty(0)
    is_list = data.ndim == 1 and data.dtype.kind in "iu" and len(data) > _HEADER_BITS // 8
    if not is_list or data.min() < 0 or data.max() > 255:
        raise ValueError("expected a list of bytes as Label Studio's brush writes them")
    return data.astype(np.uint8)


def _values(
    data: NDArray[np.uint8], num_values: int, word: int, widths: list[int]
) -> NDArray[np.uint8]:
    values, found = np.empty(num_values, np.uint8), 0
    at = _HEADER_BITS
    while found < num_values:  # each time the items that begin in the next bytes
        part = data[at >> 3 : (at >> 3) + _PART + _LONGEST_BYTES]
        some, num_bits = _values_of_part(part, at & 7, num_values - found, word, widths)
        if not len(some):
            raise ValueError(f"brush bytes end after {found} of {num_values} values")
        values[found : found + len(some)] = some
        found += len(some)
        at += num_bits
    return values


def _values_of_part(
    data: NDArray[np.uint8], first_bit: int, num_values: int, word: int, widths: list[int]
) -> tuple[NDArray[np.uint8], int]:
    """Return up to `num_values` values of the items that begin in `_PART` bytes, and their bits.

    Args:
        data: these bytes, and as many as the last item can have.
        first_bit: where the first item begins.
        num_values: left of the image.
        word: bits of a value.
        widths: bits of a run's length, of each kind of item.
    """
    # Read an item at every bit; then the chain from the first one shows which of them exist.
    windows = _windows(data)
    place = np.arange(first_bit, 8 * min(len(data), _PART))
    repeat = _read(windows, place, 1) == 1
    kind = _read(windows, place + 1, 2)
    count = np.choose(kind, [_read(windows, place + 3, width) for width in widths]) + 1
    begin = place + 3 + np.array(widths)[kind]
    end = begin + np.where(repeat, 1, count) * word
    ends, counts, items, found = end.tolist(), count.tolist(), [], 0
    at, last = first_bit, first_bit + len(place)
    while found < num_values and at < last:
        item = at - first_bit
        if ends[item] > 8 * len(data):
            break
        items.append(item)
        found += counts[item]
        at = ends[item]
    chosen = np.array(items, np.int64)
    # Single values are read as repeats of length one.
    single = np.where(repeat[chosen], 1, count[chosen])
    first = np.repeat(np.cumsum(single) - single, single)
    offset = (np.arange(single.sum()) - first) * word
    values = _read(windows, np.repeat(begin[chosen], single) + offset, word)
    lengths = np.repeat(np.where(repeat[chosen], count[chosen], 1), single)
    return np.repeat(values.astype(np.uint8), lengths)[:num_values], at - first_bit


def _windows(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the 64 bits from each byte on, and a last one of zeros."""
    padded = np.concatenate([data.astype(np.uint64), np.zeros(8, np.uint64)])
    windows = np.zeros(len(data) + 1, np.uint64)
    for place in range(8):
        windows |= padded[place : place + len(windows)] << np.uint64(56 - 8 * place)
    return windows


def _read(
    windows: NDArray[np.uint64], at: NDArray[np.int64] | int, width: int
) -> NDArray[np.int64]:
    """Return the number of `width` bits (32 at most) at each bit; zeros follow the end."""
    at = np.asarray(at)
    window = windows[np.minimum(at >> 3, len(windows) - 1)]
    return (window << (at & 7).astype(np.uint64) >> np.uint64(64 - width)).astype(np.int64)
