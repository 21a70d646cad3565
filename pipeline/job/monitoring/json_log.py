"""The log as JSON, one object a line, for programs that collect the logs of many machines.

An environment variable (`LOG_FORMAT_ENV`) chooses it, so that workers and a submitted job log as
their command does.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from schemas.redact import redact_all
from schemas.untrusted import printable_json, without_style

FIELDS = ("run", "shard", "worker", "progress")
"""What a record's object has beside time, level, logger and message, where it is known: the run
folder, the shard in hand, the worker (`HOST/PID`), and counts, in lines of progress only."""

_of_process: dict[str, Any] = {}


def set_log_fields(**fields: Any) -> None:
    """Add some of `FIELDS` to all records of this process; a record's own `extra` counts more."""
    _of_process.update(fields)


@contextmanager
def log_fields(**fields: Any) -> Iterator[None]:
    """Do the same for a while, in all threads."""
    before = dict(_of_process)
    set_log_fields(**fields)
    try:
        yield
    finally:
        _of_process.clear()
        _of_process.update(before)


class JsonFormatter(logging.Formatter):
    """One JSON object for a record, on one line and without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; a traceback or stack stands in it as text."""
        moment = datetime.fromtimestamp(record.created, UTC)
        known = {name: getattr(record, name, _of_process.get(name)) for name in FIELDS}
        entry = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_style(record.getMessage()),
            **{name: value for name, value in known.items() if value is not None},
        }
        if record.exc_info:
            entry["exception"] = without_style(self.formatException(record.exc_info))
        if record.stack_info:
            entry["stack"] = record.stack_info
        return printable_json(redact_all(entry), indent=None)
