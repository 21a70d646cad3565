"""The seconds that a block takes, also when it fails."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """The seconds of a block, once it has ended."""

    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Measure the wall time of a block."""
    watch, start = Stopwatch(), time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - start
