"""What pydantic found wrong, in words for the one who typed it: a line per wrong key."""

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

_INDEX = re.compile(r"\.\d+(?=\.)")
_FLAGS = {
    "images": "give it in the file or with --images",
    "out": "give it in the file or with --out",
    "heads": "give found or dinoiser in the file or with --heads",
    "vocabulary": 'give `labels` in the job file, or --labels "cat,dog", or --vocabulary FILE',
}


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per problem: dotted path, what is wrong, and the key that was meant.

    Args:
        error: raised while `model` was validated.
        model: where the suggestions for unknown keys come from.
    """
    known = tuple(dotted_fields(model))
    found = error.errors(include_url=False)
    inside = {d["loc"][:n] for d in found for n in range(len(d["loc"]))}
    # A list whose every item is wrong is reported as too short as well: once is enough.
    return [_line(d, known) for d in found if d["type"] != "too_short" or d["loc"] not in inside]


def dotted_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every field, inner models' included; `*` for a list's index."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        inner, place = field.annotation, f"{prefix}{name}."
        if get_origin(inner) is tuple:
            inner, place = get_args(inner)[0], f"{place}*."
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from dotted_fields(inner, place)


def suggestion(path: str, known: tuple[str, ...]) -> str:
    """Return the known dotted path that `path` most likely meant, or an empty text."""
    path = _INDEX.sub(".*", path)
    parent, _, leaf = path.rpartition(".")
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    close = same_leaf or difflib.get_close_matches(path, siblings, n=1, cutoff=0.6)
    close = close or difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    return close[0] if close else ""


def _line(details: Any, known: tuple[str, ...]) -> str:
    path = ".".join(str(part) for part in details["loc"])
    kind, got = details["type"], details["input"]
    if kind == "extra_forbidden":
        meant = suggestion(path, known)
        hint = f"did you mean {meant!r}?" if meant else f"known here: {_siblings(path, known)}"
        return f"{path}: unknown key; {hint}"
    if kind == "missing":
        return f"{path}: missing; {_FLAGS.get(path, 'it has no default')}"
    if kind == "too_short" and path.endswith("labels"):
        return f"{path}: no labels; expected one or more words"
    if path.startswith("vocabulary.") and isinstance(got, bool | int | float):
        return f"{path}: expected a word, got {got!r}; quote yes, no, on, off and numbers in YAML"
    message = details["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message[:1].lower()}{message[1:]}, got {_short(got)}"


def _siblings(path: str, known: tuple[str, ...]) -> str:
    parent = _INDEX.sub(".*", path).rpartition(".")[0]
    return (
        ", ".join(n.rpartition(".")[2] for n in known if n.rpartition(".")[0] == parent)
        or "nothing"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
