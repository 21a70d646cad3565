"""Retries of storage operations: how long to wait, when to give up.

An operation has one budget of time (`OVSEG_STORAGE_TIMEOUT_S`, 120 s) for all its tries. The
clients' own retries are switched off (`remote`), so that nothing multiplies them.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    wait_exponential,
    wait_random,
)

from pipeline.storage import failures, uris
from pipeline.storage.waiting import Wait, is_ended, sleep, waiting
from schemas.errors import ConfigError, StorageError
from schemas.redact import redact

ATTEMPTS = 7
"""Tries of one operation, if the budget lasts."""
RETRY_DELAY_ENV = "OVSEG_RETRY_DELAY_S"
"""Environment variable: least seconds before the second try; doubled before each further one."""
TIMEOUT_ENV = "OVSEG_STORAGE_TIMEOUT_S"
"""Environment variable: seconds that one operation may take, all its tries and pauses together."""
DEFAULT_TIMEOUT_S = 120.0
LEAST_BYTES_PER_S = 256 << 10
"""A file adds one second to the budget for so many bytes."""
_TOLD_AFTER_S = 10.0
PROBE_S = 5.0
"""Limit of the single try that an operation has on a store which has failed for a whole budget."""

T = TypeVar("T")


def timeout_s() -> float:
    """Return the budget of one operation in seconds.

    Raises:
        ConfigError: the environment variable is not a positive number.
    """
    text = os.environ.get(TIMEOUT_ENV, "")
    try:
        seconds = float(text or DEFAULT_TIMEOUT_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{TIMEOUT_ENV}: expected seconds, a positive number, but got {text!r}")
    return seconds


def retry_delay_s() -> float:
    """Return the least seconds before the second try of an operation."""
    return float(os.environ.get(RETRY_DELAY_ENV, "0.5"))


class Deadline:
    """The end of one operation's budget.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._began_s = time.monotonic()
        self._seconds = seconds
        self._size_bytes = 0

    def allow(self, size_bytes: int) -> None:
        """Add the time that a file of this size may take; once for all tries."""
        self._size_bytes = max(self._size_bytes, size_bytes)

    @property
    def used_s(self) -> float:
        """Seconds since the operation began."""
        return time.monotonic() - self._began_s

    @property
    def left_s(self) -> float:
        """Seconds that are left, 0 or more."""
        seconds = self._seconds + self._size_bytes / LEAST_BYTES_PER_S
        return max(0.0, seconds - self.used_s)


class _Outages:
    """Which stores are out: they have failed for a whole budget, without one success since."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[float, float, bool]] = {}
        self._succeeded_s: dict[str, float] = {}
        self._probed: set[str] = set()

    def succeeded(self, store: str) -> None:
        """Note that a store has answered."""
        self._succeeded_s[store] = time.monotonic()
        self._failures.pop(store, None)

    def failed(self, store: str, began_s: float, *, has_used_budget: bool) -> None:
        """Note an operation that failed after all its tries; not if others succeeded meanwhile."""
        if not store or self._succeeded_s.get(store, -1.0) >= began_s:  # no one store: local files
            return
        first_s, _, had_used = self._failures.get(store, (began_s, 0.0, False))
        self._failures[store] = first_s, time.monotonic(), had_used or has_used_budget

    def is_out(self, store: str, budget_s: float) -> bool:
        """Return whether it has failed for a budget, the last time not longer ago than that."""
        first_s, last_s, has_used_budget = self._failures.get(store, (0.0, 0.0, False))
        has_failed_long = has_used_budget or last_s - first_s >= budget_s
        return has_failed_long and time.monotonic() - last_s < budget_s

    @contextmanager
    def probe(self, store: str) -> Iterator[bool]:
        """Yield whether this is the only thread within this block, for this store."""
        with self._lock:
            is_only = store not in self._probed
            self._probed.add(store)
        try:
            yield is_only
        finally:
            if is_only:
                self._probed.discard(store)

    def since(self, store: str) -> str:
        """Return the time of day since when it has failed."""
        first_s, _, _ = self._failures.get(store, (time.monotonic(), 0.0, False))
        began_at = time.time() - time.monotonic() + first_s
        return time.strftime("%H:%M:%S", time.localtime(began_at))


_OUTAGES = _Outages()


def retrying(
    operation: Callable[[Deadline], T],
    doing: str,
    uri: str,
    *,
    is_image: bool = False,
    is_write: bool = False,
) -> T:
    """Return the operation's result; retry it after a temporary error.

    On a store that has failed for a whole budget, an operation has a single short try until one
    succeeds. Images are an account of their own, in which one image at a time is tried and the
    others fail at once: a thousand images of a dead store do not take a thousand budgets, also
    where the store takes their rows. So are writes: where they hang and small reads succeed, not
    each shard takes a budget.

    Args:
        operation: repeatable; ends a try itself at the deadline, where it can.
        doing: the words between "cannot" and the URI in messages.
        uri: of the file or folder.
        is_image: one of many files that a job can do without for a while.
        is_write: it makes, replaces or deletes a file.

    Raises:
        FileNotFoundError, FileExistsError, PermissionError, UserError: at once.
        BlockedStoreError: at once.
        StorageError: a permanent error, or the tries or the budget are used up.
    """
    store = uris.store(uri)
    kind = "images of " if is_image else "writes to " if is_write else ""
    account = kind + store if store else ""
    if not _OUTAGES.is_out(account, timeout_s()):
        return _tried(operation, doing, uri, account)
    with _OUTAGES.probe(account) as is_only:
        if is_image and not is_only:
            since = _OUTAGES.since(account)
            raise StorageError(
                f"cannot {doing} {redact(uri)}: not tried, no image of {store} could be read "
                f"since {since}"
            )
        return _tried(operation, doing, uri, account, is_probe=True)


def _tried(
    operation: Callable[[Deadline], T],
    doing: str,
    uri: str,
    account: str,
    *,
    is_probe: bool = False,
) -> T:
    """Return the operation's result after several tries, or after one short one (`is_probe`)."""
    budget_s = timeout_s()
    deadline = Deadline(min(PROBE_S, budget_s) if is_probe else budget_s)
    max_tries, delay_s = 1 if is_probe else ATTEMPTS, retry_delay_s()
    began_s = time.monotonic()
    with waiting(f"{doing} {uri}") as wait:
        attempts = Retrying(
            stop=partial(_is_last, deadline, max_tries),
            wait=wait_exponential(delay_s) + wait_random(0, delay_s),
            retry=retry_if_exception(failures.may_pass),
            before_sleep=partial(_note, wait),
            sleep=sleep,
            reraise=True,
        )
        try:
            result = attempts(operation, deadline)
        except failures.client_errors() as error:
            failure = failures.plain(error, doing, uri)
            if failures.may_pass(error):
                num_tries = attempts.statistics["attempt_number"]
                _OUTAGES.failed(account, began_s, has_used_budget=num_tries < max_tries)
                if deadline.used_s >= _TOLD_AFTER_S:
                    used = f"tried for {deadline.used_s:.0f} s; {TIMEOUT_ENV} sets how long"
                    failure = StorageError(f"{failure} ({used})")
            else:
                _OUTAGES.succeeded(account)  # it answers
            raise failure from error
    _OUTAGES.succeeded(account)
    return result


def _is_last(deadline: Deadline, attempts: int, state: RetryCallState) -> bool:
    return state.attempt_number >= attempts or state.upcoming_sleep >= deadline.left_s or is_ended()


def _note(wait: Wait, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    reason = redact(str(error)).strip() or type(error).__name__
    wait.detail = f"try {state.attempt_number} failed: {reason.splitlines()[0][:200]}"
