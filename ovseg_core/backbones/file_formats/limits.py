"""What the tensors of a weights file may be, before memory is taken for them.

The largest models that ovseg reads have some 2,000 tensors of at most 5 dimensions; a training's
checkpoint holds each of them four times.
"""

from collections.abc import Sequence
from typing import Any

MAX_TENSORS = 20_000
MAX_DIMENSIONS = 8
MAX_SIZE = 2**40
MAX_NAME_CHARS = 500
MAX_NESTING = 50
"""Dictionaries in dictionaries; and modules in modules of a pickled network."""


def check_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape that a file states, once it is one.

    Raises:
        ValueError: it has too many dimensions, or other things than whole numbers from 0 on.
    """
    if not isinstance(shape, list | tuple):
        raise ValueError("a tensor's shape is not a list of whole numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(shape)} dimensions, the limit is {MAX_DIMENSIONS}")
    if not all(type(size) is int and 0 <= size <= MAX_SIZE for size in shape):
        raise ValueError(f"a tensor's shape is not a list of whole numbers from 0 to {MAX_SIZE}")
    return tuple(shape)


def check_names(names: Sequence[str]) -> None:
    """Check number and length of the tensors' names.

    Raises:
        ValueError: beyond the limits.
    """
    if len(names) > MAX_TENSORS:
        raise ValueError(f"it has {len(names)} tensors, the limit is {MAX_TENSORS}")
    if any(len(name) > MAX_NAME_CHARS for name in names):
        raise ValueError(f"the name of a tensor has more than {MAX_NAME_CHARS} characters")
