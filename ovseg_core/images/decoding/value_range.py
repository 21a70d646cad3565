"""How the numbers of an image become 8 bits, where they are more than 8 bits deep.

One rule for every format, first line that fits:

1. Numbers that are not finite, that equal the file's nodata value (GDAL's tag), or that are beyond
   1e30 do not count; they are shown black. The same holds where the smallest number is one that
   stands for nothing by custom, such as -9999, and the file states no range.
2. A file that states its range (TIFF's SMinSampleValue and SMaxSampleValue, or MinSampleValue and
   MaxSampleValue): that range.
3. Whole numbers, none negative: 0 to 2^k - 1, with the smallest depth k that holds the largest, of
   8, 10, 12, 14 and 15 bits, as cameras have them, and from 16 bits on of all. A photograph of 16
   bits is divided by 257.
4. Other numbers from 0 to 1: 0 to 1; from 0 to 255: 0 to 255.
5. Everything else: from the 0.5th to the 99.5th percentile.

Of floats, and of whole numbers beyond 16 bits, none of them negative, the few that are more than 16
times as large as all the others do not decide in lines 3 to 5: one number for nothing would leave
the rest dark. Within 16 bits they do: a dark photograph with one lamp stays dark.
Numbers outside of the range are black or white. A TIFF whose zero is white is inverted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ErrorCode, ImageError

_DEPTHS = (8, 10, 12, 14, 15, *range(16, 33))
_PERCENTILES = (0.5, 99.5)
_BEYOND = 1e30
"""Larger numbers stand for nothing, whatever the file says: float32's largest is a common one."""
_CUSTOMARY_NODATA = (-9999.0, -99999.0, -32767.0, -32768.0, -2147483647.0, -2147483648.0)
_FEW = 1000
"""At most one number in so many is left out of the range."""
_FAR = 16
_MID_GREY = 128


@dataclass(frozen=True)
class DeclaredRange:
    """What a file says about its numbers.

    Attributes:
        low: of the range that it states; None: it states none.
        high: of that range.
        nodata: stands for no number; None: there is none.
        is_zero_white: the smallest number is white.
    """

    low: float | None = None
    high: float | None = None
    nodata: float | None = None
    is_zero_white: bool = False


def to_8_bits(values: NDArray[Any], declared: DeclaredRange) -> tuple[NDArray[np.uint8], str]:
    """Return numbers as 8 bits, and the rule that was used, for a person.

    Args:
        values: integers or floats (h, w) or (h, w, channels).
        declared: what the file says.

    Raises:
        ImageError: `undecodable`: no number counts.
    """
    counts = _that_count(values, declared)
    valid = values if counts is None else values[counts]
    if not valid.size:
        raise ImageError(ErrorCode.UNDECODABLE, "no number in the image is finite and no nodata")
    low, high, rule = _range_of(valid, declared)
    if high <= low:
        grey = np.full(values.shape, _MID_GREY, np.uint8)
    else:
        shares = (values.astype(np.float64) - low) / (high - low)
        if counts is not None:
            shares = np.where(counts, shares, 0.0)
        grey = (np.clip(shares, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    if declared.is_zero_white:
        grey = 255 - grey
    if counts is not None:
        grey[~counts] = 0
    return grey, f"{rule}, zero is white" if declared.is_zero_white else rule


def white_of(largest: float) -> float:
    """Return 2^k - 1 with the smallest depth k of bits that holds a number."""
    return next((2.0**k - 1 for k in _DEPTHS if largest < 2.0**k), largest)


def _that_count(values: NDArray[Any], declared: DeclaredRange) -> NDArray[np.bool_] | None:
    """Return which numbers count; None: all do."""
    counts = None
    nodata = declared.nodata
    if values.dtype.kind == "f":
        counts = np.abs(values) < _BEYOND  # False for NaN
    if nodata is None and declared.low is None and values.dtype.kind != "u":
        smallest = float(values.min(where=True if counts is None else counts, initial=0))
        nodata = smallest if smallest in _CUSTOMARY_NODATA else None
        if nodata is not None and (values == nodata).all():
            nodata = None
    if nodata is not None and not np.isnan(nodata):
        is_number = values != values.dtype.type(nodata) if _fits(values, nodata) else None
        if is_number is not None:
            counts = is_number if counts is None else counts & is_number
    return None if counts is None or counts.all() else counts


def _fits(values: NDArray[Any], number: float) -> bool:
    if values.dtype.kind == "f":
        return True
    if not np.isfinite(number):
        return False
    limits = np.iinfo(values.dtype)  # type: ignore[arg-type]
    return number == int(number) and limits.min <= number <= limits.max


def _range_of(valid: NDArray[Any], declared: DeclaredRange) -> tuple[float, float, str]:
    if declared.low is not None and declared.high is not None and declared.high > declared.low:
        return declared.low, declared.high, _text(declared.low, declared.high, "stated")
    if valid.min() >= 0:
        top, num_far = _largest_of(valid)
        is_float = valid.dtype.kind == "f"
        high = next((high for high in (1.0, 255.0) if top <= high), None) if is_float else None
        if high is None and (not is_float or np.array_equal(valid, np.floor(valid))):
            high = white_of(top)
        if high is not None:
            return 0.0, high, _text(0.0, high) + (f", {num_far} far above" if num_far else "")
    low, high = (float(value) for value in np.percentile(valid, _PERCENTILES))
    return low, high, _text(low, high, "percentiles 0.5 and 99.5")


def _largest_of(valid: NDArray[Any]) -> tuple[float, int]:
    """Return the largest of numbers, less the few that are far above all others, and how many."""
    top = float(valid.max())
    if top <= (1.0 if valid.dtype.kind == "f" else 65535.0):
        return top, 0
    is_far = valid > top / _FAR
    num_far = int(np.count_nonzero(is_far))
    if num_far > max(1, valid.size // _FEW):
        return top, 0
    rest = float(valid.max(where=~is_far, initial=0))
    return (rest, num_far) if rest > 0 else (top, 0)


def _text(low: float, high: float, how: str = "") -> str:
    return f"{low:.6g} to {high:.10g}{f' ({how})' if how else ''}"
