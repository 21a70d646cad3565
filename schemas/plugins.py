"""Plug-ins found by their file's name: methods, objectness sources, heads, exporters, importers.

A folder is the registry: a new file is a new name, there is no list to edit. What the plug-ins
share lies in a folder of its own, `shared`; folders and private files are not plug-ins. An option
of a plug-in may name another plug-in; it is marked with `Nested`, and found by that mark.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from schemas.base import Frozen, did_you_mean, validated
from schemas.config import NamedOptions
from schemas.errors import ConfigError


@dataclass(frozen=True)
class Nested:
    """Marks an option that names a plug-in: `Annotated[NamedOptions, Nested(PACKAGE)]`.

    Attributes:
        package: dotted name of the folder that the plug-in is found in.
    """

    package: str


@dataclass(frozen=True)
class CheckedOptions:
    """The options of one plug-in of a job file, checked.

    Attributes:
        where: dotted path of the plug-in in the job file, such as `method.options.objectness`.
        options: an instance of the plug-in's own `Options`.
    """

    where: str
    options: Frozen


def names(package: str) -> tuple[str, ...]:
    """Return the plug-ins' names in a package, sorted.

    Args:
        package: dotted name of the folder, for example `ovseg_core.methods`.
    """
    folder = importlib.import_module(package)
    files = (module.name for module in pkgutil.iter_modules(folder.__path__) if not module.ispkg)
    return tuple(sorted(name for name in files if not name.startswith("_")))


def load_plugin(package: str, name: str) -> ModuleType:
    """Return the plug-in's module.

    Raises:
        ConfigError: the folder has no such file; the message suggests a near name.
    """
    known = names(package)
    if name not in known:
        kind, hint = package.rpartition(".")[2], did_you_mean(name, known)
        every = "" if hint.startswith("known") else f" All {kind}: {', '.join(known)}"
        raise ConfigError(f"no {name!r} among the {kind}: {hint}{every}")
    return importlib.import_module(f"{package}.{name}")


def read_options(package: str, part: NamedOptions, where: str) -> Frozen:
    """Return a plug-in's options, checked with its own `Options` model; builds nothing.

    The options of nested plug-ins are checked as well.

    Args:
        package: dotted name of the folder.
        part: name and options as configured.
        where: dotted path of the plug-in in the job file, for the message.

    Raises:
        ConfigError: an unknown plug-in, an unknown key or a wrong value; one line for each.
    """
    return read_nested_options(package, part, where)[0].options


def read_nested_options(package: str, part: NamedOptions, where: str) -> list[CheckedOptions]:
    """Return the options of a plug-in and of all plug-ins nested in it, the outermost first.

    Takes the arguments of `read_options` and raises the same errors.
    """
    model: type[Frozen] = load_plugin(package, part.name).Options
    options = validated(model, part.options, f"{where}.options")
    found = [CheckedOptions(where, options)]
    for name, inner_package in nested_packages(model).items():
        inner: NamedOptions = getattr(options, name)
        found += read_nested_options(inner_package, inner, f"{where}.options.{name}")
    return found


def nested_packages(model: type[Frozen]) -> dict[str, str]:
    """Return the folder of the plug-ins of each option that names one, by the option's name."""
    return {
        name: mark.package
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Nested)
    }


def option_models(package: str, name: str, where: str) -> Iterator[tuple[str, str, type[Frozen]]]:
    """Yield the `Options` model of a plug-in and of every plug-in that can be nested in it.

    Args:
        package: dotted name of the folder.
        name: of the plug-in.
        where: its dotted path in a job file.

    Yields:
        Dotted path in a job file, name of the plug-in, its model; the outermost first.
    """
    model: type[Frozen] = load_plugin(package, name).Options
    yield where, name, model
    for option, inner_package in nested_packages(model).items():
        for inner in names(inner_package):
            yield from option_models(inner_package, inner, f"{where}.options.{option}")
