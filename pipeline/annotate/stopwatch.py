"""The seconds that blocks of code take, also those that fail."""

import time
from types import TracebackType


class Stopwatch:
    """Measures the wall time of blocks, one after another, by one thread.

    Attributes:
        seconds: of all blocks that have ended.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> "Stopwatch":
        """Begin a block."""
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the block."""
        self.seconds += time.perf_counter() - self._start
