"""How results look on a terminal, and as plain text where there is none."""

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.redact import redact

_PLAIN_WIDTH = 160


def console() -> Console:
    """Return the console of stdout: as wide as the terminal, or 160 columns in a file or pipe."""
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(width=width, highlight=False, markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; columns of numbers stand to the right, nothing is cut off.

    Args:
        title: heading.
        columns: headings; an empty one is allowed.
        rows: cells; floats are shown with three digits, None as `-`.
    """
    body = list(rows)
    if not body:
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in body)
        shown.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        shown.add_row(*(Text(redact(_cell(value))) for value in row))
    out = console()
    out.print(f"\n{title}", style="italic", soft_wrap=True)  # a heading may be wider than its table
    out.print(shown)


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value` lines; pairs with an empty text are left out."""
    given = [(name, _cell(value)) for name, value in pairs if value != ""]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        line(f"{name:<{width}}  {value}")


def line(text: str) -> None:
    """Print one line, unwrapped: it may be copied back to the prompt."""
    console().print(redact(text), soft_wrap=True)


def program() -> str:
    """Return what to type for this program: its name where the shell finds it, else its path."""
    ours, found = Path(sys.argv[0]), shutil.which("ovseg")
    if ours.name != "ovseg" or not ours.is_file() or (found and ours.samefile(found)):
        return "ovseg"
    return shlex.quote(str(ours))


def seconds(stages: dict[str, float]) -> str:
    """Return `read 0.1, decode 0.4`."""
    return ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items())


def counts(words: dict[str, int]) -> str:
    """Return `not_found 3, truncated 1`."""
    return ", ".join(f"{word} {number}" for word, number in words.items())


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
