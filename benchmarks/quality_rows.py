"""The rows that `make bench-quality` measures: published methods, single options, our compositions.

A row is a method with options; it is compared with the same method without some of them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from ovseg_core import methods
from ovseg_core.segmenter import MethodOptions
from schemas import plugins

Options = dict[str, Any]

FOUND: Options = {"objectness": {"name": "found"}}
"""The embedded CLIP does not know the phrase `background`: without this gate most methods give the
ground the label of the nearest object. The gate is not part of their papers."""

BASES: dict[str, Options] = {
    "sclip": {},
    "naclip": {"pamr_steps": 0},
    "sc_clip": {},
    "proxyclip": {},
}
"""Methods on which each option of `BEYOND` is measured, with the gate; NACLIP without its PAMR."""

BEYOND: dict[str, Options] = {
    "outlier repair": {"outlier_repair": True},
    "global attention": {"global_attention": True},
    "top 8 labels": {"top_k_labels": 8},
    "PAMR, 10 steps": {"pamr_steps": 10},
    "vote in SAM's proposals": {"proposals": "sam"},
    "attention within SAM's proposals": {
        "proposals": "sam",
        "region_vote": False,
        "limited_attention": True,
    },
    "masks redrawn by SAM": {"proposals": "sam", "region_vote": False, "refine_masks": True},
}
"""Options that are not part of these papers; a method without one of them has no such row."""

_CLOSER: Options = {
    **FOUND,
    "short_side_px": 160,
    "window_px": 64,
    "stride_px": 32,
    "top_k_labels": 8,
    "pamr_steps": 10,
    "pamr_dilations": (2, 4),
}
"""Found foreground, the image at twice the published size, windows a third wider than CLIP's input,
the eight likeliest labels, PAMR among near neighbours. SCLIP also has its own area threshold."""

COMPOSITIONS: dict[str, tuple[str, Options]] = {
    "sclip, closer": ("sclip", {**_CLOSER, "area_threshold": 0.03}),
    "proxyclip, closer": ("proxyclip", _CLOSER),
    "sclip, closer, redrawn by SAM": (
        "sclip",
        {**_CLOSER, "area_threshold": 0.03, **BEYOND["masks redrawn by SAM"]},
    ),
}
"""By title, a method and its options: chosen on other scenes (`world`'s split `development`)."""


@dataclass(frozen=True)
class QualityRow:
    """One row.

    Attributes:
        key: its name in the results.
        method: name of the method.
        options: of the method; others have their published values.
        kind: the method as published, the same behind the gate, a base of the options, the base
            with one option, or a composition.
        without: key of the row to compare with, which has fewer options; empty: none.
        option: the added option of `BEYOND`; empty: none.
    """

    key: str
    method: str
    options: Options = field(default_factory=dict)
    kind: Literal["published", "gated", "base", "option", "composition"] = "published"
    without: str = ""
    option: str = ""

    def described(self) -> dict[str, Any]:
        """Return the row's description in the results."""
        return {
            "method": self.method,
            "kind": self.kind,
            "options": self.options,
            "without": self.without,
            "option": self.option,
        }


def quality_rows() -> list[QualityRow]:
    """Return every row in order; all methods in the package are among them, but for students."""
    names = list(filter(methods.runs_by_name, plugins.names(methods.PACKAGE)))
    published = [QualityRow(name, name) for name in names]
    gated = [
        QualityRow(f"{name}, gated", name, FOUND, "gated", name)
        for name in names
        if _can_gate(name)
    ]
    compositions = [
        QualityRow(title, method, options, "composition", method)
        for title, (method, options) in COMPOSITIONS.items()
    ]
    return [*published, *compositions, *gated, *_beyond()]


def _beyond() -> list[QualityRow]:
    rows = []
    for name, own in BASES.items():
        base = f"{name}, gated"
        if own:
            base = f"{base}, bare"
            rows.append(QualityRow(base, name, {**FOUND, **own}, "base", name))
        rows += [
            QualityRow(f"{base}, {title}", name, {**FOUND, **own, **option}, "option", base, title)
            for title, option in BEYOND.items()
            if option.keys() <= _options_of(name).model_fields.keys()
        ]
    return rows


def _options_of(method: str) -> type[MethodOptions]:
    return plugins.load_plugin(methods.PACKAGE, method).Options


def _can_gate(method: str) -> bool:
    """Return whether the method takes an objectness source and is not published with this one."""
    published = _options_of(method)()
    own = getattr(published, "objectness", None)
    return own is not None and own.name != FOUND["objectness"]["name"]
