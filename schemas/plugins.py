"""Parts found by their file's name: methods, objectness sources, exporters.

A folder is the registry: a new file is a new name, there is no list to edit. What the plug-ins
share lies in a folder of its own, `shared`; folders and private files are not plug-ins.
"""

import importlib
import pkgutil
from types import ModuleType

from schemas.base import Frozen, did_you_mean, validated
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
    return validated(load(package, part.name).Options, part.options, f"{where}.options")
