"""`ovseg methods`: what there is, by whom, of which parts, with whose weights and licence."""

import json
from dataclasses import asdict

from jobs import show

_NOTE = (
    "mIoU in percent as published by the authors with the weights named; "
    "not measured by this project."
)
_BENCHMARKS = ("VOC21", "Context60", "Object", "VOC20", "Context59", "Stuff", "Cityscapes", "ADE")


def show_methods(as_json: bool) -> None:
    """Print what each method's card says: first who it is, then the published figures."""
    from schemas import plugins

    package = "ovseg_core.methods"
    cards = {name: plugins.load(package, name).CARD for name in plugins.names(package)}
    if as_json:
        rows = [
            {"name": name, **asdict(card), "clip": card.clip.model_dump()}
            for name, card in cards.items()
        ]
        print(json.dumps({"note": _NOTE, "methods": rows}, indent=2, ensure_ascii=False))
        return
    for name, card in cards.items():
        show.line(f"{name}: {card.paper} (arXiv {card.arxiv})")
        show.facts(
            [
                ("  parts", card.parts),
                ("  weights", card.weights),
                ("  licence", card.licence),
            ]
        )
        show.line("")
    show.table(
        "Published mIoU",
        ("name", *_BENCHMARKS),
        [
            (name, *(_figure(card.published.get(benchmark)) for benchmark in _BENCHMARKS))
            for name, card in cards.items()
        ],
    )
    show.line(f"\n{_NOTE}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
