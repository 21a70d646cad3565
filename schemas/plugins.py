"""Parts found by their file's name: methods, objectness sources, exporters.

A folder is the registry: a new file is a new name, there is no list to edit. What the plug-ins
share lies in a folder of its own, `shared`; folders and private files are not plug-ins.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from schemas.base import Frozen
from schemas.config import NamedOptions
from schemas.errors import ConfigError


def names(package: str) -> tuple[str, ...]:
    """Return the plug-ins' names in a package, sorted.

    Args:
        package: dotted name of the folder, for example `ovseg_core.methods`.
    """
    folder = importlib.import_module(package)
    files = (module.name for module in pkgutil.iter_modules(folder.__path__) if not module.ispkg)
    return tuple(sorted(name for name in files if not name.startswith("_")))


def load(package: str, name: str) -> ModuleType:
    """Return the part's module.

    Raises:
        ConfigError: the folder has no such file; the message suggests a near name.
    """
    known = names(package)
    if name not in known:
        kind = package.rpartition(".")[2]
        raise ConfigError(f"no {name!r} among the {kind}: {did_you_mean(name, known)}")
    return importlib.import_module(f"{package}.{name}")


def read_options(package: str, part: NamedOptions, where: str) -> Frozen:
    """Check a part's options with its own `Options` model, without building anything.

    Args:
        package: dotted name of the folder.
        part: name and options as configured.
        where: dotted path of the part in the job file, for the message.

    Raises:
        ConfigError: an unknown part, an unknown key or a wrong value; one line for each.
    """
    model: type[Frozen] = load(package, part.name).Options
    try:
        return model.model_validate(part.options)
    except ValidationError as error:
        lines = [_line(detail, model, f"{where}.options") for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def did_you_mean(name: str, known: tuple[str, ...] | list[str], limit: int = 3) -> str:
    """Return a question with the nearest known names, or the list where nothing is near."""
    near = get_close_matches(name, known, n=limit, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(word) for word in near)}?"
    shown = ", ".join(known[:20])
    return f"known: {shown}{', ...' if len(known) > 20 else ''}"


def _line(detail: Mapping[str, Any], model: type[Frozen], where: str) -> str:
    location = [str(part) for part in detail["loc"]]
    dotted = ".".join([where, *location])
    if detail["type"] == "extra_forbidden":
        return f"{dotted}: no such option. {did_you_mean(location[-1], tuple(model.model_fields))}"
    if detail["type"] == "missing":
        return f"{dotted}: expected a value, none was given"
    got = f", got {detail['input']!r}" if location else ""
    return f"{dotted}: {detail['msg'].removeprefix('Value error, ')}{got}"
