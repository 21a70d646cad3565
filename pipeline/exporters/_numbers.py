"""Many small whole numbers as text: several times faster than one by one."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

_KNOWN = 1000
"""Smaller numbers are looked up."""


def text(values: NDArray[np.integer], separator: str) -> str:
    """Return numbers from 0 on as `separator.join(map(str, values))` does."""
    values = values.astype(np.int64)
    words = _table(separator)[np.minimum(values, _KNOWN - 1)]
    large = np.flatnonzero(values >= _KNOWN)
    if not len(values):
        return ""
    if len(large):
        spelled = [f"{number}{separator}" for number in values[large].tolist()]
        words = words.astype(f"S{max(map(len, spelled))}")
        words[large] = spelled
    characters = words.view(np.uint8)
    return characters[characters != 0].tobytes().decode("ascii")[: -len(separator)]


@cache
def _table(separator: str) -> NDArray[np.bytes_]:
    return np.array([f"{number}{separator}" for number in range(_KNOWN)], dtype=np.bytes_)
