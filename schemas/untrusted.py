r"""What came from somebody else: where its names lead, how large it may be, how its text is shown.

A run folder, a list, a table of images and a tool's file are made by other programs and people. A
name in them stays inside its folder, whatever system the reader of an export runs on.

A name is data and may hold any character. Where a person reads it, characters that a terminal obeys
(ESC, CR, BEL, C1 controls), that turn the direction of text, or that show nothing, stand as escapes
such as `\x1b` and `\u202e`. Data keeps the exact name.
"""

import json
import logging
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from schemas.redact import redact

if TYPE_CHECKING:
    import pyarrow as pa

# Python's end of a text is `\Z`, Arrow's `\z`; `$` stands before a last line end, too.
_NO_PATH = r"\x00|^[/\\]|^[A-Za-z]:[/\\]|(?:^|[/\\])[.][.](?:[/\\]|{end})|(?:^|/)[.]?(?:/|{end})"
_NO_PATH_FOR_ARROW = _NO_PATH.format(end=r"\z")
_NO_PATH_FOR_PYTHON = re.compile(_NO_PATH.format(end=r"\Z"))

MAX_PIXELS = 1 << 30
"""Of one image. A file or table that states more would take all memory."""

_HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # controls, with newline and tab
    "\u2028\u2029"  # separators of lines and paragraphs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # direction
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u3164\ufeff\uffa0"
    "\ufe00-\ufe0f\ufff0-\ufffb"  # nothing is drawn for these
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ud800-\udfff"  # halves of characters, and bytes that are not UTF-8
    "]"
)
_EMOJI = "\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_SCRIPTS = "\u0620-\u0dff\u1000-\u109f\u1780-\u17b3\u17b6-\u1809\u1820-\u18aa"
"""Scripts in which an invisible joiner decides how the letters beside it are drawn."""
_PART_OF_A_LETTER = re.compile(
    # a family, a flag of a part of a country, a keycap, an emoji in colour or in black and white
    rf"(?:(?<=[{_EMOJI}])|(?<=[{_EMOJI}]\ufe0f))\u200d(?=[{_EMOJI}])"
    "|(?<=\U0001f3f4)(?:\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067"
    "|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073))\U000e007f"
    rf"|(?<=[{_EMOJI}\u00a9\u00ae])[\ufe0e\ufe0f]|(?<=[0-9#*])\ufe0f(?=\u20e3)"
    rf"|(?<=[{_SCRIPTS}])[\u200c\u200d](?=[{_SCRIPTS}])"
    "|(?<=[\u1820-\u18aa])[\u180b-\u180f]"
    # a variant of one Chinese or Japanese character
    "|(?<=[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\ufe00-\ufe02\U000e0100-\U000e01ef]"
)
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_SHOWN_OR_PART = re.compile(f"({_PART_OF_A_LETTER.pattern})|{_HIDDEN.pattern}")


def is_relative_path(text: str) -> bool:
    """Return whether a text is a path that stays inside its folder on every system.

    Its parts stand between `/` and are none of ``, `.` and `..`. A text that leaves its folder on
    Windows, where backslashes part names too and `C:/` is a place, is no path here either.
    """
    return _NO_PATH_FOR_PYTHON.search(text) is None


def first_not_relative(paths: "pa.ChunkedArray") -> str | None:
    """Return the first text of a column that is no relative path; None: all are."""
    import pyarrow.compute as pc  # `--help` does without

    options = pc.MatchSubstringOptions(_NO_PATH_FOR_ARROW)
    is_wrong = pc.call_function("match_substring_regex", [paths], options)
    wrong = paths.filter(is_wrong)
    return wrong[0].as_py() if len(wrong) else None


def printable(text: str) -> str:
    r"""Return one line that a terminal shows and does not obey: such characters become escapes.

    Letters of every script, accents and emoji stay, with the joiners that are part of how they are
    drawn. Nothing else is changed, so that `\n` may also be a backslash and an n.
    """
    return _escaped(text, _escape)


def in_xml(text: str) -> str:
    """Return the text with escapes for the characters that XML has no place for."""
    return _NOT_IN_XML.sub(lambda found: _escape(found[0]), text)


def shown_text(text: str) -> str:
    """Return one line for a person or a log: printable, and without secrets."""
    return redact(printable(text))


def without_style(text: str) -> str:
    """Return the text without colours and weights, which Ray puts into its logs and tracebacks."""
    return _STYLE.sub("", text)


LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""A record in a file or pipe."""
LOG_FORMAT_ENV = "OVSEG_LOG_FORMAT"
"""Environment variable: `json`, or `text` (also where it is not set)."""


def logs_json() -> bool:
    """Return whether this process logs JSON objects, see `pipeline/job/monitoring/json_log.py`."""
    return os.environ.get(LOG_FORMAT_ENV) == "json"


class LogFormatter(logging.Formatter):
    """One line for a record, then the lines of its traceback: printable, and without secrets."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """Return the record's line."""
        return shown_text(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's
        """Return the traceback."""
        text = without_style(super().formatException(ei))
        return "\n".join(map(shown_text, text.split("\n")))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's
        """Return the stack."""
        return "\n".join(map(shown_text, stack_info.split("\n")))


def printable_json(value: Any, indent: int | None = 2) -> str:
    """Return JSON text that holds every name exactly and can be shown, by JSON's own escapes.

    Args:
        value: what `json` can write.
        indent: spaces a level; None: one line.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # Line ends of the layout are the only control characters that `json` leaves as they are.
    return "\n".join(_escaped(line, _json_escape) for line in text.split("\n"))


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    return _SHOWN_OR_PART.sub(lambda found: found[1] or escape(found[0]), text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape", "backslashreplace").decode("ascii")


def _json_escape(letter: str) -> str:
    halves = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{halves[i : i + 2].hex()}" for i in range(0, len(halves), 2))
