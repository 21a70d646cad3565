"""Which failures of storage pass by themselves, and trying those again with growing pauses."""

import errno
import os
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from schemas.errors import StorageError, UserError
from schemas.redact import redact

ATTEMPTS = 5
"""Tries of one operation."""
RETRY_DELAY_ENV = "OVSEG_RETRY_DELAY_S"
"""Environment variable: seconds before the second try; doubled before each further one."""

_HOPELESS_ERRNO = {
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
    """Return the operation's result; try again what can succeed later.

    Args:
        operation: repeatable.
        doing: the words after "cannot" in messages, with the URI.

    Raises:
        FileNotFoundError, FileExistsError, PermissionError: at once.
        StorageError: when it cannot succeed, or failed at the last try.
    """
    delay_s = float(os.environ.get(RETRY_DELAY_ENV, "0.5"))
    tries_left = ATTEMPTS
    while True:
        tries_left -= 1
        try:
            return operation()
        except _storage_errors() as error:
            plain = _plain(error, redact(f"cannot {doing}"))
            if tries_left == 0 or not isinstance(plain, StorageError) or _hopeless(error):
                raise plain from error
        time.sleep(delay_s * random.uniform(0.5, 1.0))
        delay_s *= 2


def for_user(operation: Callable[[], T]) -> T:
    """Return the operation's result; a missing permission becomes a UserError."""
    try:
        return operation()
    except PermissionError as error:
        raise UserError(str(error)) from error


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


def _hopeless(error: Exception) -> bool:
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    return (
        getattr(error, "errno", None) in _HOPELESS_ERRNO
        or type(error).__name__ == "ParamValidationError"
    )
