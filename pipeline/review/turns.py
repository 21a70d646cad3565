"""One computation at a time: people first, work done ahead of them in between."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Turns:
    """A lock that is never handed to work ahead while a person waits for it."""

    def __init__(self) -> None:
        """Begin free."""
        self._changed = Condition()
        self._is_taken = False
        self._num_people = 0

    @contextmanager
    def person(self) -> Iterator[None]:
        """Hold the turn for what somebody waits for."""
        with self._changed:
            self._num_people += 1
            try:
                self._changed.wait_for(lambda: not self._is_taken)
            finally:
                self._num_people -= 1
            self._is_taken = True
        with self._taken():
            yield

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Hold it for what nobody waits for yet."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_taken or self._num_people))
            self._is_taken = True
        with self._taken():
            yield

    @contextmanager
    def _taken(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()
