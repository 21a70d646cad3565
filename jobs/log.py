"""Logging is set up here and nowhere else; secrets are taken out of what is printed."""

import io
import logging
import os
import sys

from schemas.redact import redact


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
