"""The one pydantic base, and the mistakes that pydantic finds, in words."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from schemas.errors import ConfigError

RENAMED_OPTIONS = {
    "presence_top": "top_k_labels",
    "recipe": "variant",
    "least_affinity": "gamma",
    "sure": "delta",
    "std_patches": "sigma_patches",
    "min_cosine": "beta",
    "class_weight": "class_token_weight",
    "denoise_below": "prompt_denoising_threshold",
    "smooth_below": "key_smoothing_threshold",
    "region_folder": "proposals",
}
"""Options of methods: name in earlier versions -> name today; no method has an option of another's
old name."""

_LIST_INDEX = re.compile(r"\.\d+(?=\.)")
_MAX_SHOWN_CHARS = 60
_MAX_SHOWN_NAMES = 20


class Frozen(BaseModel):
    """Data only. An unknown key is an error; a docstring under a field becomes its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @classmethod
    def spelled_out(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the fields with their short forms written in full, so that layers can be merged.

        Raises:
            ValueError: two forms of one field at once, or a key of an earlier version.
        """
        return values


Model = TypeVar("Model", bound=Frozen)
"""Any of our own models."""


def validated(
    model: type[Model], values: Any, where: str = "", hints: Mapping[str, str] | None = None
) -> Model:
    """Return the values as a model.

    Args:
        model: class of the model.
        values: what was read from a file or the command line.
        where: dotted path of the model in the file, for the message; empty: the whole file.
        hints: by dotted path, how a missing field can be given.

    Raises:
        ConfigError: one line per mistake.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:  # whose traceback would say the same, above the words
        raise ConfigError(*problems(error, model, where, hints)) from None


def problems(
    error: ValidationError,
    model: type[BaseModel] | None = None,
    where: str = "",
    hints: Mapping[str, str] | None = None,
) -> list[str]:
    """Return one line per mistake: dotted path, what was expected, what came, the key meant.

    Args:
        error: raised while a model was validated.
        model: that model; the suggestions for unknown keys are its fields.
        where: dotted path of the model; empty: none.
        hints: by dotted path, how a missing field can be given.
    """
    prefix = f"{where}." if where else ""
    fields = dict(dotted_fields(model, prefix)) if model else {}
    known = tuple(fields)
    details = error.errors(include_url=False)
    parents = {detail["loc"][:n] for detail in details for n in range(len(detail["loc"]))}
    lines = []
    for detail in details:
        if detail["type"] == "too_short" and detail["loc"] in parents:
            continue  # a list whose every item is wrong: the items' own lines say it
        path = ".".join([*([where] if where else []), *map(str, detail["loc"])])
        if detail["type"] == "extra_forbidden":
            line = f"unknown key; {_meant(path, known)}" if model else "unknown key"
        elif detail["type"] == "missing":
            line = f"missing; {(hints or {}).get(path) or _described(path, fields)}"
        else:
            line = _expected_and_got(detail["type"], detail["msg"], detail["input"])
        lines.append(f"{path}: {line}" if path else line)
    return lines


def dotted_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field with its dotted path, inner models' included; `*` is a list's index."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        inner, place = field.annotation, f"{prefix}{name}."
        if get_origin(inner) is tuple:
            inner, place = get_args(inner)[0], f"{place}*."
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from dotted_fields(inner, place)


def _described(path: str, fields: Mapping[str, FieldInfo]) -> str:
    """Return what a missing field holds, by the first sentence of its docstring."""
    field = fields.get(_LIST_INDEX.sub(".*", path))
    text = " ".join((field.description or "" if field else "").split())
    first = text.partition(". ")[0].rstrip(".")
    return f"expected a value: {first}" if first else "expected a value"


def counted(number: int, thing: str) -> str:
    """Return a number with its noun, such as `1 image` and `2,345 images`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def sentence(note: str) -> str:
    """Return a note as a sentence, with a capital and a full stop; empty: it is empty."""
    return f"{note[:1].upper()}{note[1:]}." if note else ""


def did_you_mean(name: str, known: Sequence[str], limit: int = 3) -> str:
    """Return a question with the nearest known names, or the list where none is near."""
    plain = {_plain_name(word): word for word in reversed(known)}
    close = difflib.get_close_matches(_plain_name(name), list(plain), n=limit, cutoff=0.5)
    near = [plain[word] for word in close]
    near = near[:1] if near and _plain_name(name) == _plain_name(near[0]) else near
    if near:
        return f"Did you mean {' or '.join(repr(word) for word in near)}?"
    more = ", ..." if len(known) > _MAX_SHOWN_NAMES else ""
    return f"known: {', '.join(known[:_MAX_SHOWN_NAMES])}{more}"


def _plain_name(name: str) -> str:
    """Return a name as people recall it: without case and separators."""
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


def _meant(path: str, known: tuple[str, ...]) -> str:
    """Return the known dotted path nearest to an unknown one, else the keys beside it."""
    parent, _, leaf = _LIST_INDEX.sub(".*", path).rpartition(".")
    leaf_of = {name: name.rpartition(".")[2] for name in known}
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    today = RENAMED_OPTIONS.get(leaf, "")
    if today in map(leaf_of.get, siblings):
        return f"it is called {today!r} now"
    near = [name for name in known if _plain_name(leaf_of[name]) == _plain_name(leaf)]
    for among in (siblings, known):  # by the last name alone: long paths are always alike
        close = difflib.get_close_matches(leaf, [leaf_of[name] for name in among], n=1, cutoff=0.6)
        near += [name for name in among if leaf_of[name] in close]
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known here: {', '.join(leaf_of[name] for name in siblings) or 'nothing'}"


def _expected_and_got(kind: str, message: str, value: Any) -> str:
    is_scalar = value is None or isinstance(value, str | bool | int | float)
    got = repr(value)
    if len(got) > _MAX_SHOWN_CHARS:
        got = f"{got[: _MAX_SHOWN_CHARS - 3]}..."
    if kind == "value_error":  # raised by a validator of ours, whose words stand as they are
        message = message.removeprefix("Value error, ")
        return f"{message}, got {got}" if is_scalar and "got " not in message else message
    if kind == "string_type" and is_scalar:
        return f"expected a text, got {got}; quote yes, no, on, off and numbers in YAML"
    if kind in ("model_type", "dict_type"):
        return f"expected `key: value` pairs, got {got}"
    if kind in ("tuple_type", "list_type"):
        return f"expected a list, got {got}"
    message = message.partition(", unable to ")[0]
    message = re.sub(r"^Input should be (?=greater|less)", "expected a number ", message)
    message = message.replace("Input should be ", "expected ")
    return f"{message[:1].lower()}{message[1:]}, got {got}"
