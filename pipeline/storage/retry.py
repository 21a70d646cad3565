"""Retries of storage operations: which errors are temporary, how long to wait, when to give up.

An operation has one budget of time (`OVSEG_STORAGE_TIMEOUT_S`, 120 s) for all its tries. The
clients' own retries are switched off (`remote`), so that nothing multiplies them.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    wait_exponential,
    wait_random,
)

from pipeline.storage import uris
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

_PERMANENT_ERRNO = {
    errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EMSGSIZE, errno.ENOSYS, errno.ENOSPC,
    errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EREMCHG,
}  # fmt: skip
_CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
_ACCESS_ERRORS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "ClientAuthenticationError", "DefaultCredentialsError", "RefreshError",
}  # fmt: skip
_EXISTS_CODES = {"PreconditionFailed", "412", "FileAlreadyExists", "ObjectAlreadyExists"}
"""What stores say of a file that is to be created and is there; s3fs knows only AWS' answer."""
_S3_ACTIONS = {
    "list": "s3:ListBucket on the bucket",
    "write": "s3:PutObject",
    "create": "s3:PutObject",
    "delete": "s3:DeleteObject",
}
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
    """Which stores have failed for a whole budget, without one success."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[float, float]] = {}

    def succeeded(self, store: str) -> None:
        self._failures.pop(store, None)

    def failed(self, store: str, began_s: float) -> None:
        if not store:  # local files are not one store
            return
        first_s, _ = self._failures.get(store, (began_s, 0.0))
        self._failures[store] = first_s, time.monotonic()

    def is_out(self, store: str, budget_s: float) -> bool:
        """Return whether it has failed for a budget, the last time not longer ago than that."""
        first_s, last_s = self._failures.get(store, (0.0, 0.0))
        return last_s - first_s >= budget_s > time.monotonic() - last_s


_OUTAGES = _Outages()


def retrying(operation: Callable[[Deadline], T], doing: str, uri: str) -> T:
    """Return the operation's result; retry it after a temporary error.

    On a store that has failed for a whole budget, an operation has a single short try until one
    succeeds: a thousand images of a dead store do not take a thousand budgets.

    Args:
        operation: repeatable; ends a try itself at the deadline, where it can.
        doing: the words between "cannot" and the URI in messages.
        uri: of the file or folder.

    Raises:
        FileNotFoundError, FileExistsError, PermissionError: at once.
        StorageError: a permanent error, or the tries or the budget are used up.
    """
    budget_s, store = timeout_s(), uris.store(uri)
    is_out = _OUTAGES.is_out(store, budget_s)
    deadline = Deadline(min(PROBE_S, budget_s) if is_out else budget_s)
    delay_s = retry_delay_s()
    began_s = time.monotonic()
    with waiting(f"{doing} {uri}") as wait:
        attempts = Retrying(
            stop=partial(_is_last, deadline, 1 if is_out else ATTEMPTS),
            wait=wait_exponential(delay_s) + wait_random(0, delay_s),
            retry=retry_if_exception(_may_pass),
            before_sleep=partial(_note, wait),
            sleep=sleep,
            reraise=True,
        )
        try:
            result = attempts(operation, deadline)
        except _storage_errors() as error:
            failure = _plain(error, doing, uri)
            if _may_pass(error):
                _OUTAGES.failed(store, began_s)
                if deadline.used_s >= _TOLD_AFTER_S:
                    used = f"tried for {deadline.used_s:.0f} s; {TIMEOUT_ENV} sets how long"
                    failure = StorageError(f"{failure} ({used})")
            else:
                _OUTAGES.succeeded(store)  # it answers
            raise failure from error
    _OUTAGES.succeeded(store)
    return result


def _is_last(deadline: Deadline, attempts: int, state: RetryCallState) -> bool:
    return state.attempt_number >= attempts or state.upcoming_sleep >= deadline.left_s or is_ended()


def _note(wait: Wait, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    reason = redact(str(error)).strip() or type(error).__name__
    wait.detail = f"try {state.attempt_number} failed: {reason.splitlines()[0][:200]}"


def _may_pass(error: BaseException) -> bool:
    return (
        isinstance(error, _storage_errors())
        and isinstance(_plain(error, "", ""), StorageError)
        and not _is_permanent(error)
    )


def _storage_errors() -> tuple[type[Exception], ...]:
    """Return the errors of all clients that are loaded; only those can have been raised."""
    modules = ((sys.modules.get(module), name) for module, name in _CLIENT_ERRORS)
    return (OSError, *(getattr(module, name) for module, name in modules if hasattr(module, name)))


def _plain(error: Exception, verb: str, uri: str) -> Exception:
    """Return FileNotFoundError, FileExistsError, PermissionError or StorageError in its place."""
    doing = redact(f"cannot {verb} {uri}")
    reason = redact(str(error)).strip() or type(error).__name__
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(f"{doing}: not found")
    if isinstance(error, NotADirectoryError):
        return FileNotFoundError(f"{doing}: a part of the path is a file")
    if isinstance(error, FileExistsError) or _s3_code(error) in _EXISTS_CODES:
        return FileExistsError(f"{doing}: it exists")
    if (
        isinstance(error, PermissionError)
        or type(error).__name__ in _ACCESS_ERRORS
        or status in (401, 403)
    ):
        return PermissionError(
            f"{doing}: permission denied or no credentials in the environment ({reason})"
            + _permission_hint(error, verb, uri)
        )
    return StorageError(f"{doing}: {reason}")


def _permission_hint(error: Exception, verb: str, uri: str) -> str:
    """Return which permission of S3 may be missing; empty where credentials are at fault."""
    if uris.scheme(uri) not in ("s3", "s3a") or _s3_code(error) not in ("AccessDenied", "403"):
        return ""
    action = _S3_ACTIONS.get(verb, "s3:GetObject")
    if action != "s3:GetObject":
        return f"; it needs {action}"
    return (
        f"; it needs {action}, and s3:ListBucket on the bucket: without that, a file that does "
        "not exist is answered in the same way"
    )


def _s3_code(error: Exception) -> str:
    """Return the code of S3's answer, such as `AccessDenied`; empty where there is none."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""


def is_refused(error: StorageError) -> bool:
    """Return whether the store does not know what was asked for, or refuses a header of it."""
    return getattr(error.__cause__, "errno", None) in (errno.ENOSYS, errno.EINVAL)


def _is_permanent(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    return (
        getattr(error, "errno", None) in _PERMANENT_ERRNO
        or type(error).__name__ == "ParamValidationError"
    )
