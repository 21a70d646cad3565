"""A memory of made things that forgets the oldest ones; the same thing is made once at a time."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Values by key, least recently used first out; safe for threads.

    Args:
        limit: sum of the sizes that are kept.
        size: size of one value, in the limit's unit.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        """Begin empty."""
        self._limit = limit
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._used = 0
        self._lock = Lock()
        self._making: dict[Hashable, Lock] = {}

    @property
    def used(self) -> int:
        """Sum of the sizes of what is kept."""
        return self._used

    def find(self, key: Hashable) -> Value | None:
        """Return a kept value, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def keep(self, key: Hashable, value: Value) -> None:
        """Take a value in; a single one above the limit is not kept."""
        size = self._size(value)
        with self._lock:
            if key in self._values:
                self._used -= self._size(self._values.pop(key))
            if size > self._limit:
                return
            self._values[key] = value
            self._used += size
            while self._used > self._limit:
                _, oldest = self._values.popitem(last=False)
                self._used -= self._size(oldest)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the kept value, or make it; others who ask for the same one wait for it."""
        found = self.find(key)
        if found is not None:
            return found
        with self._lock:
            making = self._making.setdefault(key, Lock())
        try:
            with making:
                found = self.find(key)
                if found is None:
                    found = make()
                    self.keep(key, found)
                return found
        finally:
            with self._lock:
                self._making.pop(key, None)
