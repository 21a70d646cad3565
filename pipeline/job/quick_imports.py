"""Import the model libraries without what they load for purposes that ovseg does not have.

open_clip and timm are needed; what half of their import time goes into is not: torch's compiler,
which torchvision asks for one function and timm for one decorator; transformers and timm, of which
open_clip builds encoders that ovseg refuses; and pandas, to which pyarrow would convert tables.
Only for processes that are ovseg's own, the command and its workers: in them nobody misses that.
"""

import functools
import gc
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_COMPILER_UTILS = "torch._dynamo.utils"
_LEFT_OUT = {
    "open_clip": ("timm", "transformers"),
    "pyarrow": ("pandas",),
    "timm": (),
    "torchvision": (),
}
"""What a library tries to import, and does without where it is not installed."""
_away: set[str] = set()
"""What cannot be imported right now."""
_YOUNG_OBJECTS = 50_000
"""New objects until Python looks for unused cycles. At its default of 700 it goes through the
modules loaded so far again and again: a fifth of the time of all imports."""


def import_quickly() -> None:
    """From now on, import the model libraries without their unused parts; takes no time itself."""
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the model libraries where they are, and has them executed by `_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in _away:
            raise ModuleNotFoundError(f"ovseg leaves {fullname} out here", name=fullname)
        if fullname not in _LEFT_OUT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _LEFT_OUT[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    """Executes a library while some modules are away; all else is the library's own loader."""

    def __init__(self, loader: importlib.abc.Loader, left_out: tuple[str, ...]) -> None:
        self._loader = loader
        self._left_out = left_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # its source, its resources

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        before = set(_away)
        _away.update(self._left_out)
        try:
            with _in_place(_compiler_on_use()):
                self._loader.exec_module(module)
                if module.__name__ == "pyarrow":
                    module.array([])  # it looks for pandas at its first array
        finally:
            _away.intersection_update(before)


@contextmanager
def _in_place(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Let imports find these modules, where the true ones are not loaded already."""
    new = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules |= new
    try:
        yield
    finally:
        for name, module in new.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _compiler_on_use() -> dict[str, ModuleType]:
    """Return modules in place of torch's compiler whose functions load it when they are called."""
    compiler, utils = ModuleType(_COMPILER), ModuleType(_COMPILER_UTILS)
    compiler.__path__ = []
    compiler.disable = _disable  # type: ignore[attr-defined]
    compiler.__getattr__ = functools.partial(_function, _COMPILER)  # type: ignore[method-assign]
    utils.__getattr__ = functools.partial(_function, _COMPILER_UTILS)  # type: ignore[method-assign]
    return {_COMPILER: compiler, _COMPILER_UTILS: utils}


def _function(module: str, name: str) -> Callable[..., Any]:
    """Return a function that calls the one of this name, which it looks up by then."""
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*args: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **options)

    return call


def _disable(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
    """Stand for `torch._dynamo.disable`, which decorates functions while they are defined."""

    @functools.wraps(function)
    def call(*inputs: Any, **named: Any) -> Any:
        disable = importlib.import_module(_COMPILER).disable
        return disable(function, *args, **options)(*inputs, **named)

    return call
