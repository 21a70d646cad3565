"""Pure data: configuration, vocabulary, records, tables, errors. No torch, ray or fsspec."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.config import JobConfig
    from schemas.errors import ImageError, OutageError, OvsegError, UserError
    from schemas.vocabulary import Vocabulary

__all__ = ["ImageError", "JobConfig", "OutageError", "OvsegError", "UserError", "Vocabulary"]


def lazy_names(homes: Mapping[Any, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package that imports a name when it is first used.

    So that `import` of the package alone is cheap: some of its modules take seconds.

    Args:
        homes: module of each public name.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"no public name {name!r}; there are {', '.join(sorted(homes))}")
        return getattr(import_module(homes[name]), name)

    return get, lambda: sorted(homes)


__getattr__, __dir__ = lazy_names(
    dict.fromkeys(("ImageError", "OutageError", "OvsegError", "UserError"), "schemas.errors")
    | {"JobConfig": "schemas.config", "Vocabulary": "schemas.vocabulary"}
)
