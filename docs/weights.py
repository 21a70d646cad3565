"""Write the table of docs/weights.md from what the methods need: `python -m docs.weights`.

A new method is listed by the names in its `CARD` and options (`needed_weights`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from ovseg_core import methods
from ovseg_core.backbones.file_formats.needed_files import WeightsFile, size_text
from schemas import plugins
from schemas.config import SegmenterConfig

PAGE = Path(__file__).with_suffix(".md")
BEGIN = "<!-- The table is written by `python -m docs.weights`. -->\n"
END = "<!-- End of the table. -->\n"
REQUIRED: dict[str, dict[str, Any]] = {
    "clip_dinoiser": {"heads": "last.pt"},
    "student": {"weights": "student.safetensors"},
}
"""Options without which a method has no weights, with the file that its row names."""
ORIGINS = {"last.pt": "`last.pt` of the authors", "student.safetensors": "`ovseg train-student`"}
"""Where such a file comes from."""
ALTERNATIVES: dict[str, tuple[dict[str, Any], ...]] = {
    "clip_dinoiser": ({"affinity": "dino", "background": "found"},),
}
"""Options of a method, other than nested plug-ins, that load other weights."""


@dataclass
class _Uses:
    """What loads a file.

    Attributes:
        file: as the first of them names it.
        by: methods, and options with their values.
        settings: that name it, or the user's own in its place.
    """

    file: WeightsFile
    by: dict[str, None] = field(default_factory=dict)
    settings: dict[str, None] = field(default_factory=dict)


def table() -> str:
    """Return the table with the comments around it; nothing on this machine changes it."""
    uses: dict[tuple[str, str], _Uses] = {}
    with TemporaryDirectory() as empty, patch("huggingface_hub.constants.HF_HUB_CACHE", empty):
        for file, what in [*_by_method(), *_by_option()]:
            known = uses.setdefault((file.network, file.source), _Uses(file))
            known.by[f"{what} ({file.only_for})" if file.only_for else what] = None
            known.settings[f"`{file.option}`"] = None
    rows = [
        "| network | from: file | size | licence | loaded by | setting for your own |",
        "|---|---|---|---|---|---|",
        *(_row(one) for one in uses.values()),
    ]
    return "\n".join([BEGIN, *rows, "", END])


def page() -> str:
    """Return the text of docs/weights.md with its table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return before + table() + rest.partition(END)[2]


def _by_method() -> Iterator[tuple[WeightsFile, str]]:
    """Yield the files of every method as it is, with its name."""
    for name in plugins.names(methods.PACKAGE):
        yield from ((file, f"`{name}`") for file in _files(name, REQUIRED.get(name, {})))


def _by_option() -> Iterator[tuple[WeightsFile, str]]:
    """Yield the files that an option adds to those of the method, with the option."""
    for name in plugins.names(methods.PACKAGE):
        own = set(_files(name, REQUIRED.get(name, {})))
        for given in ALTERNATIVES.get(name, ()):
            shown = " ".join(f"{option}={value}" for option, value in given.items())
            for file in _files(name, given):
                if file not in own:
                    yield file, f"`{name}` with `{shown}`"
        model = plugins.load_plugin(methods.PACKAGE, name).Options
        for option, package in plugins.nested_packages(model).items():
            for part in plugins.names(package):
                needed = plugins.load_plugin(package, part).Options.model_fields.values()
                if any(one.is_required() for one in needed):
                    continue  # a folder of the user's own files
                given = {**REQUIRED.get(name, {}), option: part}
                for file in _files(name, given):
                    if file not in own:
                        yield file, f"`{option}={part}`"


def _files(method: str, options: dict[str, Any]) -> list[WeightsFile]:
    config = {"method": {"name": method, "options": options}}
    return methods.needed_files(SegmenterConfig.model_validate(config), lambda _: "")


def _row(uses: _Uses) -> str:
    file = uses.file
    if "://" in file.source:
        place = f"[{file.source.rpartition('/')[2]}]({file.source})"
    elif file.names:
        place = f"`{file.source}`: `{file.names[0]}`"
    else:
        place = ORIGINS[file.source]
    size = "" if file.size_bytes is None else size_text(file.size_bytes)
    licence = "; ".join(filter(None, [file.licence, file.gate]))
    cells = (file.network, place, size, licence, ", ".join(uses.by), ", ".join(uses.settings))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
