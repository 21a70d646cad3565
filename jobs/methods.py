"""`ovseg methods`: what there is, by whom, with whose weights, under which licence."""

import json
from dataclasses import asdict

from jobs import show

_NOTE = (
    "mIoU in percent as published by the authors with the weights named; "
    "not measured by this project."
)


def show_methods(as_json: bool) -> None:
    """Print one row per method, from the card in its file."""
    from ovseg_core import parts

    package = "ovseg_core.methods"
    cards = {name: parts.load(package, name).CARD for name in parts.names(package)}
    if as_json:
        rows = [{"name": name, **asdict(card)} for name, card in cards.items()]
        print(json.dumps({"note": _NOTE, "methods": rows}, indent=2, ensure_ascii=False))
        return
    show.table(
        "Methods",
        ("name", "paper", "arXiv", "weights", "licence", "published mIoU"),
        [
            (name, card.paper, card.arxiv, card.weights, card.licence, _published(card.published))
            for name, card in cards.items()
        ],
    )
    show.line(f"\n{_NOTE}")


def _published(scores: dict[str, float]) -> str:
    return ", ".join(f"{benchmark} {value:g}" for benchmark, value in scores.items())
