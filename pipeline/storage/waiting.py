"""What this process waits for: said in the log when it takes long, and ended with its threads."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TypeVar

from schemas.redact import redact

logger = logging.getLogger(__name__)

FIRST_S = 15.0
"""Something that takes so long is said."""
EVERY_S = 30.0
"""It is said again so often."""
_LOOK_EVERY_S = 5.0
_IMPORTS_S = 4.0
_COUNT_EVERY = 1000
_SHOWN = 2
T = TypeVar("T")


class Wait:
    """Something that may take long.

    Args:
        what: a noun phrase or infinitive with the place, such as `read s3://bucket/a.jpg`.
        said_after_s: seconds from which on it is long; None: `FIRST_S`.

    Attributes:
        detail: how far it has come, or what the last answer was; empty: not known.
        began_s: monotonic seconds.
        began_at: the time of day, for a person.
    """

    def __init__(self, what: str, said_after_s: float | None = None) -> None:
        self.what = redact(what)
        self.said_after_s = FIRST_S if said_after_s is None else said_after_s
        self.detail = ""
        self.began_s = time.monotonic()
        self.began_at = time.time()

    def counted(self, items: Iterable[T], noun: str) -> Iterator[T]:
        """Yield the items, and say in `detail` how many they are so far."""
        for number, item in enumerate(items, 1):
            if number % _COUNT_EVERY == 0:
                self.detail = f"{number:,} {noun} so far"
            yield item

    def text(self, now_s: float) -> str:
        """Return `read s3://bucket/a.jpg since 14:02:11 (45 s); last answer ...`."""
        clock = time.strftime("%H:%M:%S", time.localtime(self.began_at))
        detail = f"; {self.detail}" if self.detail else ""
        return f"{self.what} since {clock} ({now_s - self.began_s:.0f} s){detail}"


def wait_line(waits: Sequence[Wait], now_s: float) -> str:
    """Return one line about the longest waits; empty if none is long.

    Args:
        waits: in any order.
        now_s: monotonic seconds.
    """
    long = sorted(
        (wait for wait in waits if now_s - wait.began_s >= wait.said_after_s),
        key=lambda wait: wait.began_s,
    )
    if not long:
        return ""
    more = len(long) - _SHOWN
    others = [f"and {more} more"] if more > 0 else []
    return "waiting: " + "; ".join([wait.text(now_s) for wait in long[:_SHOWN]] + others)


class _WaitLog:
    """All waits of this process, and the thread that logs the long ones."""

    def __init__(self) -> None:
        self._waits: dict[int, Wait] = {}
        self._thread: threading.Thread | None = None

    def add(self, wait: Wait) -> None:
        self._waits[id(wait)] = wait
        if self._thread is None or not self._thread.is_alive():  # gone in a forked process
            # A thread: a file system that hangs holds the one that called it.
            self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)
            self._thread.start()

    def remove(self, wait: Wait) -> None:
        self._waits.pop(id(wait), None)

    def line(self) -> str:
        return wait_line(list(self._waits.values()), time.monotonic())

    def _watch(self) -> None:
        said_s = float("-inf")
        while True:
            time.sleep(_LOOK_EVERY_S)
            if time.monotonic() - said_s >= EVERY_S and (line := self.line()):
                logger.info("%s", line)
                said_s = time.monotonic()


_LOG = _WaitLog()


@contextmanager
def waiting(what: str, said_after_s: float | None = None) -> Iterator[Wait]:
    """Say in the log that this process waits for something, if it takes long.

    Args:
        what: see `Wait`.
        said_after_s: see `Wait`.
    """
    wait = Wait(what, said_after_s)
    _LOG.add(wait)
    try:
        yield wait
    finally:
        _LOG.remove(wait)


def importing() -> AbstractContextManager[Wait]:
    """Say early that a command imports what takes seconds, from a slow disk minutes."""
    return waiting("load the libraries", _IMPORTS_S)


def current_line() -> str:
    """Return what this process waits for, as the log says it; empty: for nothing for long."""
    return _LOG.line()


class _Thread(threading.local):
    ended: threading.Event | None = None


_thread = _Thread()


class StorageThreads(ThreadPoolExecutor):
    """Threads that read and write files; what they wait for does not delay an end by Ctrl-C.

    Left by Ctrl-C (or another exception that is no `Exception`), the operations on stores that are
    going on fail within a second; else they are waited for.

    Args:
        number: of threads.
        name: prefix of their names.
    """

    def __init__(self, number: int, name: str = "storage") -> None:
        self._ended = threading.Event()
        super().__init__(number, name, _set_ended, (self._ended,))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for what is running; after an exception, what has not begun is left out."""
        is_end = kind is not None and not issubclass(kind, Exception)
        if is_end:
            self._ended.set()
        self.shutdown(wait=not is_end, cancel_futures=kind is not None)


def _set_ended(ended: threading.Event) -> None:
    _thread.ended = ended


def is_ended() -> bool:
    """Return whether the threads that this one belongs to are no longer wanted."""
    return _thread.ended is not None and _thread.ended.is_set()


def sleep(seconds: float) -> None:
    """Sleep, at most until `is_ended`."""
    if _thread.ended is None:
        time.sleep(seconds)
    else:
        _thread.ended.wait(seconds)


def poll(is_over: Callable[[float], bool], left_s: Callable[[], float]) -> bool:
    """Call `is_over` with a time to wait until it is true.

    Args:
        is_over: waits for the given seconds at most, and returns whether it is over.
        left_s: seconds that are left now.

    Returns:
        Whether it was over; False: no time is left, or `is_ended`.
    """
    while not is_over(min(0.5, left_s())):
        if is_ended() or left_s() <= 0:
            return False
    return True
