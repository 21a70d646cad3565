"""`ovseg settings` and `ovseg methods`: fields of a job file; methods and students."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from jobs import console
from schemas import plugins
from schemas.base import dotted_fields
from schemas.config import JobConfig, SegmenterConfig

_METHODS = "ovseg_core.methods"
_STUDENTS = "ovseg_core.training.students"
_NOTE = (
    "mIoU in percent as published by the authors with the weights named; "
    "not measured by this project."
)
_BENCHMARKS = ("VOC21", "Context60", "Object", "VOC20", "Context59", "Stuff", "Cityscapes", "ADE")


def show_settings(method: str, as_json: bool) -> None:
    """Print the fields of a job file, the options of a method and of its nested plug-ins.

    Args:
        method: whose options to show.
        as_json: print the JSON schema of a job file instead, with which editors complete it.
    """
    if as_json:
        console.print_json(JobConfig.model_json_schema())
        return
    # Before anything is printed, so that a wrong name is answered by its message alone.
    option_models = list(plugins.option_models(_METHODS, method, "method"))
    columns = ("field", "default", "meaning")
    rows = _field_rows(JobConfig)
    console.table("Fields of a job file; set any of them by --set FIELD=VALUE", columns, rows)
    for where, name, options in option_models:
        rows = _field_rows(options, f"{where}.options.")
        console.table(f"Options of {where}={name}", columns, rows)


def show_methods(as_json: bool) -> None:
    """Print the card of each method and student, then their published figures beside each other."""
    kinds = {"methods": _METHODS, "students": _STUDENTS}
    cards = {
        kind: {name: plugins.load_plugin(package, name).CARD for name in plugins.names(package)}
        for kind, package in kinds.items()
    }
    if as_json:
        rows = {
            kind: [
                {"name": name, **asdict(card), "clip": card.clip.model_dump()}
                for name, card in by_name.items()
            ]
            for kind, by_name in cards.items()
        }
        console.print_json({"note": _NOTE, **rows})
        return
    _show_cards(cards["methods"])
    console.line("Students, which `ovseg train-student` trains (--set student.name=NAME):")
    console.line()
    _show_cards(cards["students"])
    _show_figures(cards["students"], "Published mIoU of students")
    _show_figures(cards["methods"], "Published mIoU")
    console.line()
    default = SegmenterConfig.model_fields["method"].default.name
    console.line(f"Without --method it is {default}. Which one when: docs/choosing_a_method.md")
    console.line(_NOTE)


def _show_figures(cards: dict[str, Any], title: str) -> None:
    best = {
        benchmark: max((card.published.get(benchmark, 0.0) for card in cards.values()), default=0.0)
        for benchmark in _BENCHMARKS
    }

    def cell(card: Any, benchmark: str) -> str | console.Bold:
        figure = card.published.get(benchmark)
        if figure is None:
            return "-"
        text = f"{figure:.1f}"
        return console.Bold(text) if figure == best[benchmark] else text

    rows = [(name, *(cell(card, b) for b in _BENCHMARKS)) for name, card in cards.items()]
    console.table(title, ("name", *_BENCHMARKS), rows)


def _show_cards(cards: dict[str, Any]) -> None:
    for name, card in cards.items():
        paper = f"{card.paper} (arXiv {card.arxiv})" if card.arxiv else card.paper
        console.line(f"{name}: {paper}")
        instances = "found by the method itself" if card.finds_instances else ""
        console.facts(
            [
                ("  parts", card.parts),
                ("  instances", instances),
                ("  weights", card.weights),
                ("  licence", card.licence),
                ("  figures", card.figures),
            ]
        )
        console.line("")


def _field_rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield dotted path, default and meaning of every field."""
    defaults: dict[str, Any] = {}
    for path, field in dotted_fields(model, prefix):
        parent, _, name = path.rpartition(".")
        is_given = isinstance(defaults.get(parent), BaseModel)
        value = getattr(defaults[parent], name) if is_given else field.default
        defaults[path] = value
        if field.is_required() and not is_given:
            default = "required"
        elif isinstance(value, BaseModel):
            default = str(getattr(value, "name", ""))
        elif isinstance(value, tuple):
            default = " ".join(str(item) for item in value) or "none"
        else:
            default = json.dumps(value) if value not in ("", {}) else "none"
        yield path, default, " ".join((field.description or "").split())
