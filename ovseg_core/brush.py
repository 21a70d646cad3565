"""Label Studio's brush format: bit-packed run lengths of a row-major RGBA image.

    32 bits number of values, 5 bits word size - 1, four times 4 bits run width - 1 (3, 4, 8, 16);
    then items: 1 bit repeat, 2 bits which width, count - 1 in that width, and the value once (a
    repeat) or as often as the count says; zero bits up to a whole byte, eight if it is one already

A mask is 255 or 0 in all four channels. The value is an opacity: 1 would be stored, and not seen.
The bytes are those of Label Studio's own encoder, which never writes values one by one here: every
run of pixels is four times as long in values.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovseg_core import row_major

SOLID = 127
"""Opacity above which a pixel is in the mask: strokes drawn by hand have soft rims."""
_CHANNELS = 4
_WIDTHS = np.array([3, 4, 8, 16])
_LONGEST = 1 << 16
_HEADER_BITS = 32 + 5 + 4 * 4


def from_coco(counts: str, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the brush bytes of a mask in COCO's compressed run lengths."""
    num_pixels = size_hw[0] * size_hw[1]
    runs = row_major.lengths(row_major.changes(counts, size_hw), num_pixels)
    return _packed(runs if runs[0] else runs[1:], 0 if runs[0] else 255)


def encode(mask: NDArray[np.uint8] | NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the bytes of a mask (H, W), not 0 inside."""
    flat = np.ascontiguousarray(mask, dtype=bool).ravel()
    if not len(flat):
        raise ValueError(f"expected a mask with pixels, got shape {mask.shape}")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return _packed(np.diff(np.concatenate([[0], edges, [len(flat)]])), 255 if flat[0] else 0)


def _packed(runs: NDArray[np.int64], first: int) -> NDArray[np.uint8]:
    """Return the bytes of runs of pixels; values alternate from the first one's on."""
    lengths = runs * _CHANNELS
    values = np.where(np.arange(len(runs)) % 2 == 0, first, 255 - first)
    num_whole = (lengths - 1) // _LONGEST  # a run is cut: whole pieces, then the rest, never empty
    if num_whole.any():
        values = np.repeat(values, num_whole + 1)
        pieces = np.full(len(values), _LONGEST)
        pieces[np.cumsum(num_whole + 1) - 1] = lengths - num_whole * _LONGEST
    else:
        pieces = lengths
    kind = np.searchsorted(1 << _WIDTHS, pieces)
    width = _WIDTHS[kind]
    code = (((4 | kind) << width | (pieces - 1)) << 8) | values
    header = int(lengths.sum()) << 5 | 7
    for run_width in _WIDTHS.tolist():
        header = header << 4 | (run_width - 1)
    codes = np.concatenate([[header >> 32, header & 0xFFFFFFFF], code])
    sizes = np.concatenate([[_HEADER_BITS - 32, 32], 11 + width])
    return _joined(codes, sizes)


def _joined(codes: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write numbers of so many bits (32 at most) one after another; zero bits follow."""
    ends = np.cumsum(sizes)
    begins, num_bits = ends - sizes, int(ends[-1])
    word, offset = begins >> 5, begins & 31
    window = codes << (64 - sizes - offset).astype(np.uint64).astype(np.int64)
    high, low = (window >> 32) & 0xFFFFFFFF, window & 0xFFFFFFFF
    num_words = num_bits // 32 + 2
    # Bits do not overlap, so that sums are unions; doubles hold 32 bits exactly.
    words = np.bincount(word, high, num_words) + np.bincount(word + 1, low, num_words)
    return words.astype(">u4").view(np.uint8)[: num_bits // 8 + 1]


def opacity(rle: Sequence[int] | NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the opacity (H, W), 0 to 255, behind brush bytes of any encoder.

    Raises:
        ValueError: no brush bytes, or such of another size.
    """
    data = np.asarray(rle)
    if data.ndim != 1 or len(data) < 7 or data.dtype.kind not in "iu" or data.max() > 255:
        raise ValueError("expected a list of bytes as Label Studio's brush writes them")
    windows = _windows(data.astype(np.uint64))
    num_values, word = int(_read(windows, 0, 32)), int(_read(windows, 32, 5)) + 1
    widths = [int(_read(windows, 37 + 4 * index, 4)) + 1 for index in range(4)]
    height, width = size_hw
    if num_values != height * width * _CHANNELS or word > 8:
        raise ValueError(
            f"expected brush bytes of {height * width * _CHANNELS} values (4 channels of "
            f"{width} x {height} pixels), got {num_values} values of {word} bits"
        )
    return _values(windows, num_values, word, widths)[3::_CHANNELS].reshape(size_hw)


def _values(
    windows: NDArray[np.uint64], num_values: int, word: int, widths: list[int]
) -> NDArray[np.uint8]:
    # What an item at any bit would be; then the chain from the first one tells where they are.
    place = np.arange(_HEADER_BITS, 8 * (len(windows) - 1))
    repeat = _read(windows, place, 1) == 1
    kind = _read(windows, place + 1, 2)
    count = np.choose(kind, [_read(windows, place + 3, width) for width in widths]) + 1
    begin = place + 3 + np.array(widths)[kind]
    following = (begin + np.where(repeat, 1, count) * word - _HEADER_BITS).tolist()
    counts, items, at, found = count.tolist(), [], 0, 0
    while found < num_values:
        if at >= len(following):
            raise ValueError(f"brush bytes end after {found} of {num_values} values")
        items.append(at)
        found += counts[at]
        at = following[at]
    chosen = np.array(items)
    # Values one by one are as many repeats of one.
    single = np.where(repeat[chosen], 1, count[chosen])
    first = np.repeat(np.cumsum(single) - single, single)
    offset = (np.arange(single.sum()) - first) * word
    values = _read(windows, np.repeat(begin[chosen], single) + offset, word)
    lengths = np.repeat(np.where(repeat[chosen], count[chosen], 1), single)
    return np.repeat(values.astype(np.uint8), lengths)[:num_values]


def _windows(data: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the 64 bits from each byte on, and zeros as a last one."""
    padded = np.concatenate([data, np.zeros(8, np.uint64)])
    windows = np.zeros(len(data) + 1, np.uint64)
    for place in range(8):
        windows |= padded[place : place + len(windows)] << np.uint64(56 - 8 * place)
    return windows


def _read(
    windows: NDArray[np.uint64], at: NDArray[np.int64] | int, width: int
) -> NDArray[np.int64]:
    """Return the number of so many bits (32 at most) at each place; zeros follow the end."""
    at = np.asarray(at)
    window = windows[np.minimum(at >> 3, len(windows) - 1)]
    return (window << (at & 7).astype(np.uint64) >> np.uint64(64 - width)).astype(np.int64)
