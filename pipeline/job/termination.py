"""SIGTERM of Slurm, Kubernetes or `ray job stop`: hand in what is running, then end the job."""

import logging
import signal
import threading
from types import FrameType, TracebackType

logger = logging.getLogger(__name__)

GRACE_S = 15.0
"""Seconds that running shards get to finish; clusters kill 30 s after the signal or later."""


class Termination:
    """While it is entered, SIGTERM stops the job; outside of the main thread it does nothing.

    A job that has work in hand is asked to stop by `requested`; if it has not ended after the
    grace period, at a second SIGTERM, or if nothing is in hand, KeyboardInterrupt is raised.

    Attributes:
        requested: SIGTERM has come: no more work is begun.
        has_work: shards are running, or may be.
    """

    def __init__(self) -> None:
        self.requested = False
        self.has_work = False
        self._before: dict[signal.Signals, signal.Handlers] = {}

    def __enter__(self) -> "Termination":
        """Take the signal over."""
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals over, also from Ray, which takes SIGTERM when it starts."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in ((signal.SIGTERM, self._stop), (signal.SIGALRM, self._end)):
            before = signal.signal(number, handler)
            self._before.setdefault(number, before)  # type: ignore[arg-type]

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self.has_work:
            self.requested = True
            raise KeyboardInterrupt
        self.requested = True
        logger.warning("SIGTERM: no more shards are begun; running ones get %g s", GRACE_S)
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt
