"""Logging is set up here and nowhere else; secrets are taken out of what is printed."""

import io
import logging
import os
import re
import sys

_USER_INFO = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)")
_SECRET_VALUE = re.compile(
    r"(?i)\b([\w.-]*(?:secret|password|passwd|token|access_key|accesskey|account_key|credential"
    r"|signature|x-amz-[a-z-]+)['\"]?\s*[=:]\s*['\"]?)[^\s&'\",;}]*[^\s&'\",;}:.]"
)
# Azure's short names, only as parts of a query: as ends of words they are too common.
_SIGNED_QUERY = re.compile(r"(?i)([?&](?:sig|sv|se|sp)=)[^\s&'\",;}]*[^\s&'\",;}:.]")
_AUTHORIZATION = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")


def redact(text: str) -> str:
    """Return the text with `***` for passwords in URLs, signatures, tokens and keys."""
    text = _USER_INFO.sub("***", text)
    text = _AUTHORIZATION.sub(r"\1 ***", text)
    text = _SIGNED_QUERY.sub(r"\1***", text)
    return _SECRET_VALUE.sub(r"\1***", text)


class _Redacting(logging.Formatter):
    """A formatter whose lines, tracebacks included, carry no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up(verbose: bool = False) -> None:
    """Send the log to stderr: rich on a terminal, one plain line a record elsewhere.

    What standard output cannot spell is shown as an escape from now on.

    Args:
        verbose: also what our own packages say at level INFO and DEBUG.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name of any bytes can be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(console=Console(stderr=True), show_path=verbose)
        handler.setFormatter(_Redacting("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # It says every attempt to reach its hub twice; the error at the end says it once.
    os.environ.setdefault("HF_HUB_VERBOSITY", "debug" if verbose else "error")
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("jobs", "pipeline", "ovseg_core"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)
