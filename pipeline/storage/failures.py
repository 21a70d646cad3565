"""What a failure of a storage client means: no such file, no permission, full, expired, temporary.

The clients of fsspec raise errors of their own libraries. Here alone they become the few kinds
that the rest of ovseg knows.
"""

import errno
import re
import sys
from typing import Any

from pipeline.storage import uris
from schemas.errors import BlockedStoreError, StorageError, UserError
from schemas.redact import redact

_CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("httpx2", "HTTPError"),  # of Hugging Face's hub; earlier clients have the other one
    ("httpx", "HTTPError"),
)
_PERMANENT_ERRNO = {
    errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EMSGSIZE, errno.ENOSYS, errno.EROFS,
    errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EREMCHG,
}  # fmt: skip
_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_STATUS, _NO_SUCH_RANGE = 507, 416
_FULL_CODE = re.compile("QuotaExceeded|StorageFull|InsufficientStorage|DiskFull")
"""In the code of a store that speaks S3: AWS has none for it; MinIO, Ceph and others do."""
_ACCESS_ERRORS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "ClientAuthenticationError", "DefaultCredentialsError", "RefreshError",
}  # fmt: skip
_EXPIRED_ERRORS = {"UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError"}
_EXPIRED_CODES = {
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired",
}  # fmt: skip
_EXPIRED_TEXT = re.compile("expired|not valid in the specified time", re.IGNORECASE)
_WRONG_KEY_CODES = {"InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_WRONG_PLACE_CODES = {
    "InvalidBucketName", "AuthorizationHeaderMalformed", "PermanentRedirect", "301",
    "IllegalLocationConstraintException",
}  # fmt: skip
_NO_DATASET = {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}
_EXISTS_CODES = {"PreconditionFailed", "412", "FileAlreadyExists", "ObjectAlreadyExists"}
"""What stores say of a file that is to be created and is there; s3fs knows only AWS' answer."""
_S3_ACTIONS = {
    "list": "s3:ListBucket on the bucket",
    "write": "s3:PutObject",
    "create": "s3:PutObject",
    "delete": "s3:DeleteObject",
}


def client_errors() -> tuple[type[Exception], ...]:
    """Return the errors of all clients that are loaded; only those can have been raised."""
    modules = ((sys.modules.get(module), name) for module, name in _CLIENT_ERRORS)
    return (OSError, *(getattr(module, name) for module, name in modules if hasattr(module, name)))


def plain(error: Exception, verb: str, uri: str) -> Exception:
    """Return what a client's error means, with a message for a person.

    Args:
        error: one of `client_errors`.
        verb: what was tried, such as `read`.
        uri: of the file or folder.

    Returns:
        FileNotFoundError, FileExistsError, PermissionError, UserError for a wrong bucket or region,
        BlockedStoreError for a full store or expired credentials, else StorageError.
    """
    doing = redact(f"cannot {verb} {uri}")
    reason = redact(str(error)).strip() or type(error).__name__
    status, code = _status(error), s3_code(error)
    if blocked := _why_blocked(error):
        return BlockedStoreError(f"{doing}: {blocked} ({reason}); then the same command goes on")
    if hint := _hub_hint(error):
        return PermissionError(f"{doing}: {hint}")
    if type(error).__name__ == "OfflineModeIsEnabled":
        return UserError(f"{doing}: HF_HUB_OFFLINE is set, so that the hub is not asked")
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(f"{doing}: not found")
    if isinstance(error, NotADirectoryError):
        return FileNotFoundError(f"{doing}: a part of the path is a file")
    if isinstance(error, FileExistsError) or code in _EXISTS_CODES:
        return FileExistsError(f"{doing}: it exists")
    if (
        isinstance(error, PermissionError)
        or type(error).__name__ in _ACCESS_ERRORS
        or status in (401, 403)
        or code in _WRONG_KEY_CODES
    ):
        return PermissionError(
            f"{doing}: permission denied or no credentials in the environment ({reason})"
            + _permission_hint(error, verb, uri)
        )
    if code in _WRONG_PLACE_CODES or type(error).__name__ == "ParamValidationError":
        return UserError(f"{doing}: {reason}; check the bucket's name, its region and the endpoint")
    return StorageError(f"{doing}: {reason}")


def may_pass(error: BaseException) -> bool:
    """Return whether another try within seconds may succeed."""
    if not isinstance(error, client_errors()):
        return False
    meant = plain(error, "", "")
    if not isinstance(meant, StorageError) or isinstance(meant, BlockedStoreError):
        return False
    status = _status(error)
    if isinstance(status, int):
        return not 400 <= status < 500 or status in (408, 425, 429)
    return getattr(error, "errno", None) not in _PERMANENT_ERRNO


def is_refused(error: StorageError) -> bool:
    """Return whether the store does not know what was asked for, or refuses a header of it."""
    return getattr(error.__cause__, "errno", None) in (errno.ENOSYS, errno.EINVAL)


def is_behind_end(error: BaseException) -> bool:
    """Return whether a part of a file was asked for that begins where the file has ended."""
    return _status(error) == _NO_SUCH_RANGE or s3_code(error) in ("InvalidRange", "416")


def is_full(error: BaseException) -> bool:
    """Return whether the system says that a disk is full, or the user's share of it."""
    return isinstance(error, OSError) and error.errno in _FULL_ERRNO


def s3_code(error: BaseException) -> str:
    """Return the code of S3's answer, such as `AccessDenied`; empty where there is none.

    An answer to HEAD has no code but its status, such as `403`.
    """
    return str(_s3_answer(error).get("Error", {}).get("Code", ""))


def _why_blocked(error: Exception) -> str:
    """Return what is wrong and what to do; empty: nothing that lasts until somebody does it."""
    if is_full(error):
        return "the disk is full, or your share of it: make room"
    code, name = s3_code(error), type(error).__name__
    status = _s3_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status is None:
        status = getattr(error, "status", None) or getattr(error, "status_code", None)
    if status == _FULL_STATUS or _FULL_CODE.search(code):
        return "the store is full, or your share of it: make room"
    is_expired = name in _ACCESS_ERRORS and _EXPIRED_TEXT.search(str(error))
    if code in _EXPIRED_CODES or name in _EXPIRED_ERRORS or is_expired:
        return "the credentials have expired: renew them"
    return ""


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an answer, where the client's error has one."""
    answer = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(answer, "status_code", None)
    return status if isinstance(status, int) else None


def _hub_hint(error: BaseException) -> str:
    """Return what to do about a data set that Hugging Face's hub does not give."""
    name = type(error.__cause__ or error).__name__
    if name == "GatedRepoError":
        return (
            "its owner asks people to accept terms first: accept them on its page with your "
            "account, then set HF_TOKEN to a token of that account"
        )
    if name in _NO_DATASET:
        return (
            "the hub has no such data set or revision, or it is private: check the spelling "
            "(hf://datasets/OWNER/NAME@REVISION), or set HF_TOKEN to a token that may read it"
        )
    return ""


def _s3_answer(error: BaseException) -> dict[str, Any]:
    answer = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return answer if isinstance(answer, dict) else {}


def _permission_hint(error: Exception, verb: str, uri: str) -> str:
    """Return which permission of S3 may be missing; empty where credentials are at fault."""
    if uris.scheme(uri) not in ("s3", "s3a") or s3_code(error) not in ("AccessDenied", "403"):
        return ""
    action = _S3_ACTIONS.get(verb, "s3:GetObject")
    if action != "s3:GetObject":
        return f"; it needs {action}"
    return (
        f"; it needs {action}, and s3:ListBucket on the bucket: without that, a file that does "
        "not exist is answered in the same way"
    )
