"""The results of `make bench-quality` as the tables of docs/quality.md, and into it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- quality:begin -->", "<!-- quality:end -->"

Row = Mapping[str, Any]


def tables(results: Mapping[str, Any]) -> str:
    """Return the tables: methods and compositions, those on further scenes, single options."""
    parts = [_methods(results), _confirmation(results), _options(results)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def _methods(results: Mapping[str, Any]) -> list[str]:
    rows: Mapping[str, Row] = results["rows"]
    gated = {row["without"]: row for row in rows.values() if row["kind"] == "gated"}
    heads = ["", *results["groups"].values(), "all", "crowded", "a scene"]
    lines = _head([*heads, "all, gated", "crowded, gated"])
    for key, row in rows.items():
        if row["kind"] == "published":
            behind = gated.get(key)
            last = ["–", "–"] if behind is None else [_cell(behind[n]) for n in ("all", "crowded")]
            lines.append(_line([f"`{row['method']}`", *_figures(row), *last]))
    for key, row in rows.items():
        if row["kind"] == "composition":
            lines.append(_line([f"**{key}**", *_figures(row), "–", "–"]))
    return lines


def _confirmation(results: Mapping[str, Any]) -> list[str]:
    heads = ["on 200 further scenes", *results["groups"].values(), "all", "crowded", "a scene"]
    rows: Mapping[str, Row] = results["confirmation"]
    return _head(heads) + [
        _line([f"**{key}**" if row["kind"] == "composition" else f"`{key}`", *_figures(row)])
        for key, row in rows.items()
    ]


def _options(results: Mapping[str, Any]) -> list[str]:
    """Return the gain of each option over the same method without it."""
    rows: Mapping[str, Row] = results["rows"]
    measured = [row for row in rows.values() if row["kind"] == "option"]
    bases = list(dict.fromkeys(row["without"] for row in measured))
    lines = _head(["option, gain in `all`", *(f"`{rows[base]['method']}`" for base in bases)])
    for name in dict.fromkeys(row["option"] for row in measured):
        gains = {
            row["without"]: row["all"] - rows[row["without"]]["all"]
            for row in measured
            if row["option"] == name
        }
        cells = [f"{gains[base]:+.1f}" if base in gains else "–" for base in bases]
        lines.append(_line([name, *cells]))
    return lines


def _figures(row: Row) -> list[str]:
    figures = [*row["groups"].values(), row["all"], row["crowded"], row["a_scene"]]
    return [_cell(figure) for figure in figures]


def _cell(figure: float) -> str:
    return f"{figure:.1f}"


def _head(cells: list[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_tables(results: Mapping[str, Any], readme: Path) -> None:
    """Replace what stands between the markers.

    Raises:
        ValueError: the file has no such markers.
    """
    text = readme.read_text(encoding="utf-8")
    before, found_begin, rest = text.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found_begin and found_end):
        raise ValueError(f"{readme} has no {BEGIN} ... {END}")
    whole = f"{before}{BEGIN}\n{tables(results)}\n{END}{after}"
    readme.write_text(whole, encoding="utf-8")
