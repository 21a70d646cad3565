"""All output of the commands: tables and lines on stdout, errors and the log on stderr.

Nothing else prints. Secrets are hidden, and names that a stranger chose are shown as text that no
terminal obeys (`schemas/untrusted.py`).
"""

import io
import logging
import os
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from schemas.base import counted
from schemas.errors import OvsegError, UserError
from schemas.redact import holds_secret
from schemas.untrusted import (
    LOG_FORMAT_ENV,
    LOG_LINE,
    LogFormatter,
    logs_json,
    printable,
    printable_json,
    shown_text,
    without_style,
)

if TYPE_CHECKING:
    from pipeline.importers.shared.notes import Note, NoteKind
    from pipeline.run.tables.damaged import Damage

logger = logging.getLogger(__name__)

_LOG_LINE = "%(asctime)s %(levelname)s %(message)s"
"""A record on standard error that is no terminal; under `-v` it also names the module."""
_PLAIN_WIDTH = 160
"""Columns in a file or pipe; a terminal has its own width."""
_SHOWN_LABELS = 50
"""Rows of a table of labels; `ovseg demo` has up to 41."""


class Bold(str):
    """A cell of a table that a terminal shows in bold."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, unless it has no rows; columns of numbers are right-aligned.

    A word is never broken: where the columns do not fit beside each other, each row becomes a
    block of lines.

    Args:
        title: heading of the table.
        columns: headings of the columns; an empty one is allowed.
        rows: cells; floats are shown with three decimals, None as `-`.
    """
    body = list(rows)
    if not body:
        return
    cells = [[shown_text(_cell(value)) for value in row] for row in body]
    heads = [shown_text(name) for name in columns]
    out = _console()
    line()
    out.print(shown_text(title), style="italic", soft_wrap=True)  # may be wider than its table
    widths = _widths(heads, cells, out.width)
    if not widths:
        _print_blocks(out, heads, cells)
        return
    gap = 2 if sum(widths) + 2 * len(widths) <= out.width else 1
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for index, (name, width) in enumerate(zip(heads, widths, strict=True)):
        numeric = all(isinstance(row[index], int | float | None) for row in body)
        align: Any = "right" if numeric else "left"
        shown.add_column(name, justify=align, width=width, overflow="fold")
    for row, values in zip(cells, body, strict=True):
        styles = ("bold" if isinstance(value, Bold) else "" for value in values)
        shown.add_row(*map(Text, row, styles))
    out.print(shown)


def _widths(heads: Sequence[str], cells: Sequence[Sequence[str]], available: int) -> list[int]:
    """Return the width of each column so that no word is broken; empty: they do not fit."""
    columns = list(zip(*[heads, *cells], strict=True))
    widths = [max(max(map(cell_len, text.split()), default=0) for text in c) for c in columns]
    spare = available - len(columns) - sum(widths)
    if spare < 0:
        return []
    missing = [max(map(cell_len, c)) - width for c, width in zip(columns, widths, strict=True)]
    for place, index in enumerate(sorted(range(len(columns)), key=missing.__getitem__)):
        given = min(missing[index], spare // (len(columns) - place))
        widths[index] += given
        spare -= given
    return widths


def _print_blocks(out: Console, heads: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print each row as a line with its first cell, and its other cells below it."""
    for row in cells:
        out.print(Text(row[0], style="bold"), soft_wrap=True)
        for name, cell in list(zip(heads, row, strict=True))[1:]:
            text = Text(f"{name}: {cell}" if name else cell)
            out.print(Padding(text, (0, 0, 0, 4)), overflow="fold")


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value` lines; pairs with an empty text are left out."""
    given = [(name, _cell(value)) for name, value in pairs if value != ""]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        line(f"{name:<{width}}  {value}")


def notes(found: "Mapping[NoteKind, Note]") -> None:
    """Print what of another tool's file was left out or read in another way."""
    from pipeline.importers.shared.notes import WORDS

    for kind, note in found.items():
        line(f"{WORDS[kind]}: {note.count}")
        for name in note.first:
            line(f"  {name}")
        if note.has_more:
            line("  ...")


def damaged(found: "Mapping[str, Damage]", where: str = "") -> None:
    """Print what was left out because it cannot be what ovseg wrote."""
    for what, damage in found.items():
        line(f"left out{where}: {damage.count} {what}")
        for name in damage.first:
            line(f"  {name}")
        if damage.count > len(damage.first):
            line("  ...")


def first_names(names: Sequence[str], most: int) -> str:
    """Return the first names of a list, and how many follow."""
    hidden = len(names) - most
    return ", ".join(names[:most]) + (f" and {hidden} more" if hidden > 0 else "")


def table_of_labels(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table of one row per label, the first `_SHOWN_LABELS`, and how many more there are.

    Args:
        title: see `table`.
        columns: see `table`.
        rows: the most important label first.
    """
    table(title, columns, rows[:_SHOWN_LABELS])
    labels_hidden(len(rows) - _SHOWN_LABELS)


def labels_hidden(number: int, why: str = "") -> None:
    """Print how many labels of a list are not shown, if any."""
    if number > 0:
        line(f"and {counted(number, 'more label')}{why} (--json shows all)")


def line(text: str = "") -> None:
    """Print one line without wrapping it: it may be copied back to the prompt."""
    _console().print(shown_text(text), soft_wrap=True)


def line_with_token(text: str) -> None:
    """Print one line at once and hide nothing: whoever started the command needs the token."""
    print(printable(text), flush=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, which other programs read; nothing is hidden in it."""
    print(printable_json(value))


def error_line(text: str, level: int = logging.INFO) -> None:
    """Print one line on stderr; where the log is JSON, a record of this level."""
    if logs_json():
        logger.log(level, "%s", text.removeprefix("error: "))
    else:
        print(shown_text(text), file=sys.stderr, flush=True)


def confirm(question: str) -> bool:
    """Ask a question that is answered by yes or no, until it is; no answer is no.

    Raises:
        UserError: nobody answers: standard input has ended, or it is Ctrl-C.
    """
    import typer

    prompt = f"{shown_text(question)} [y/N]"
    while True:
        try:
            said = typer.prompt(prompt, default="", show_default=False).strip()
        except typer.Abort as error:
            raise UserError("nobody answered, so nothing was done; --yes answers before") from error
        if said.lower() in ("", "y", "yes", "n", "no"):
            return said.lower() in ("y", "yes")
        error_line(f"error: expected y or n, got {said!r}", logging.ERROR)


def mistakes(error: OvsegError) -> None:
    """Print a deliberate error on stderr, a line for each mistake."""
    for text in error.lines:
        error_line(f"error: {text}", logging.ERROR)


def bug(error: BaseException) -> None:
    """Print the traceback of an error that nobody meant on stderr."""
    if logs_json():
        logger.critical("a bug of ovseg: %s", error, exc_info=error)
        return
    text = without_style("".join(traceback.format_exception(error)))
    for part in text.rstrip("\n").split("\n"):
        error_line(part)


def foreign_line(text: str) -> None:
    """Print a whole line of another program's log, without colours."""
    print(shown_text(without_style(text.expandtabs())), flush=True)


def program() -> str:
    """Return how this program is called at the prompt: `ovseg` if on PATH, else its own path."""
    ours, found = Path(sys.argv[0]), shutil.which("ovseg")
    if ours.name != "ovseg" or not ours.is_file() or (found and ours.samefile(found)):
        return "ovseg"
    return shlex.quote(str(ours))


def seconds(stages: dict[str, float]) -> str:
    """Return `read 0.1, decode 0.4`."""
    return ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items())


def counts(numbers: dict[str, int]) -> str:
    """Return `not_found 3, truncated 1`."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def set_up_logging(verbose: bool = False, log_format: str = "text") -> None:
    """Send the log to stderr: rich on a terminal, one plain line per record elsewhere.

    From now on stdout shows characters that it cannot encode as escapes.

    Args:
        verbose: also the records of our own packages at level DEBUG.
        log_format: `json`: everything on stderr is a JSON object a line, also of the processes that
            this one starts; `text`.
    """
    if log_format == "text":
        os.environ.pop(LOG_FORMAT_ENV, None)
    else:
        os.environ[LOG_FORMAT_ENV] = log_format
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name of any bytes can be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    if logs_json():
        from pipeline.job.monitoring.json_log import JsonFormatter  # not for `--help`

        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    elif sys.stderr.isatty():
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=verbose)
        handler.setFormatter(LogFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LogFormatter(LOG_LINE if verbose else _LOG_LINE))
    logging.captureWarnings(True)
    warnings.formatwarning = _warning_text
    # huggingface_hub logs every failed attempt twice; our own error at the end says it once.
    os.environ.setdefault("HF_HUB_VERBOSITY", "debug" if verbose else "error")
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("jobs", "pipeline", "ovseg_core"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def warn_of_secrets(args: Sequence[str]) -> None:
    """Say what to do instead of a secret on the command line."""
    if any(map(holds_secret, args)):
        logging.getLogger(__name__).warning(
            "the command line holds a password, token or signature: other users of this machine "
            "can see it (`ps`), and the shell keeps it. Put the address into a job file that only "
            "you may read (chmod 600), or give credentials by the environment"
        )


def _warning_text(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: object = None
) -> str:
    return f"{category.__name__}: {message}"


def _console() -> Console:
    is_known = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if is_known else _PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
