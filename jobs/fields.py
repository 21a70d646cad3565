"""`ovseg settings`: every field of a job file with its default and meaning, from the models."""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs import show
from schemas.config import JobConfig


def show_settings(method: str, as_json: bool) -> None:
    """Print the fields of a job file, the options of a method and of its objectness sources.

    Args:
        method: whose options to show.
        as_json: the JSON schema of a job file instead, which lets editors complete and check it.
    """
    if as_json:
        print(json.dumps(JobConfig.model_json_schema(), indent=2, ensure_ascii=False))
        return
    from ovseg_core import objectness
    from schemas import plugins

    options = plugins.load("ovseg_core.methods", method).Options
    columns = ("field", "default", "meaning")
    show.table("Fields of a job file; any of them by --set FIELD=VALUE", columns, _rows(JobConfig))
    show.table(f"Options of the method {method}", columns, _rows(options, "method.options."))
    if "objectness" not in options.model_fields:
        return
    for name in plugins.names(objectness.PACKAGE):
        rows = _rows(plugins.load(objectness.PACKAGE, name).Options, f"{objectness.WHERE}.options.")
        show.table(f"Options of {objectness.WHERE}={name}", columns, rows)


def _rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        inner, place = field.annotation, f"{prefix}{name}"
        if get_origin(inner) is tuple:
            inner, place = get_args(inner)[0], f"{place}.*"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield f"{prefix}{name}", _default(field), _meaning(field)
            yield from _rows(inner, f"{place}.")
        else:
            yield f"{prefix}{name}", _default(field), _meaning(field)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", ""))
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value) or "none"
    return json.dumps(value) if value not in ("", {}) else "none"


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())
