"""Retries of storage operations: which errors are temporary, and how long to wait."""

import errno
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from schemas.errors import StorageError
from schemas.redact import redact

ATTEMPTS = 5
"""Tries of one operation."""
RETRY_DELAY_ENV = "OVSEG_RETRY_DELAY_S"
"""Environment variable: least seconds before the second try; doubled before each further one."""

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
T = TypeVar("T")


def retrying(operation: Callable[[], T], doing: str) -> T:
    """Return the operation's result; retry it after a temporary error.

    Args:
        operation: repeatable.
        doing: the words after "cannot" in messages, with the URI.

    Raises:
        FileNotFoundError, FileExistsError, PermissionError: at once.
        StorageError: a permanent error, or the last try failed.
    """
    delay_s = float(os.environ.get(RETRY_DELAY_ENV, "0.5"))
    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(delay_s) + wait_random(0, delay_s),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        return attempts(operation)
    except _storage_errors() as error:
        raise _plain(error, redact(f"cannot {doing}")) from error


def _may_pass(error: BaseException) -> bool:
    return (
        isinstance(error, _storage_errors())
        and isinstance(_plain(error, ""), StorageError)
        and not _is_permanent(error)
    )


def _storage_errors() -> tuple[type[Exception], ...]:
    """Return the errors of all clients that are loaded; only those can have been raised."""
    modules = ((sys.modules.get(module), name) for module, name in _CLIENT_ERRORS)
    return (OSError, *(getattr(module, name) for module, name in modules if hasattr(module, name)))


def _plain(error: Exception, doing: str) -> Exception:
    """Return FileNotFoundError, FileExistsError, PermissionError or StorageError in its place."""
    reason = redact(str(error)).strip() or type(error).__name__
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(f"{doing}: not found")
    if isinstance(error, NotADirectoryError):
        return FileNotFoundError(f"{doing}: a part of the path is a file")
    if isinstance(error, FileExistsError):
        return FileExistsError(f"{doing}: it exists")
    if (
        isinstance(error, PermissionError)
        or type(error).__name__ in _ACCESS_ERRORS
        or status in (401, 403)
    ):
        return PermissionError(
            f"{doing}: permission denied or no credentials in the environment ({reason})"
        )
    return StorageError(f"{doing}: {reason}")


def _is_permanent(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    return (
        getattr(error, "errno", None) in _PERMANENT_ERRNO
        or type(error).__name__ == "ParamValidationError"
    )
