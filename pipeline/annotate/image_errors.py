"""The one place where an image's failure becomes an error code, and the stopwatch beside it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from schemas.errors import ErrorCode, ImageError

log = logging.getLogger(__name__)
T = TypeVar("T")

BrokenDeviceError: type[Exception] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
"""What torch raises when the GPU context is lost: every later call in the process fails as well."""


def value_or_error(work: Callable[[], T]) -> T | ImageError:
    """Return what `work` returns, or the reason of its failure as an image's error.

    Raises:
        BrokenDeviceError: nothing more can be computed in this process, so it is not the image's.
    """
    try:
        return work()
    except ImageError as error:
        return error
    except Exception as error:  # whatever it is, it must not stop the shard
        if is_out_of_memory(error):
            return ImageError(ErrorCode.OUT_OF_MEMORY, describe(error))
        if isinstance(error, BrokenDeviceError):
            raise
        log.warning("unexpected failure of an image", exc_info=error)
        return ImageError(ErrorCode.INTERNAL, describe(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the host or the device ran out of memory; torch has no class for the host's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def describe(error: BaseException) -> str:
    """Return the exception's kind and first line, short enough for a table's cell."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:500]


class Stopwatch:
    """Seconds of one block; readable when it has ended."""

    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measure the block's wall time, also when it fails."""
    watch, start = Stopwatch(), time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - start
