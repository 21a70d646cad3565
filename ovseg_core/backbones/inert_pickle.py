"""Read the tensors of a PyTorch archive without running any code that it names.

For checkpoints that `torch.load(weights_only=True)` refuses: TorchScript archives, such as OpenAI's
own CLIP files, and training checkpoints that hold objects beside the tensors (arguments, optimizer,
numpy numbers). Tensors, dictionaries and lists are rebuilt; every other object becomes an empty
stand-in that keeps its attributes, so nothing of the file is ever imported or called.
"""

import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PICKLE = "data.pkl"
_DTYPES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class StandIn:
    """An object of a class that is not imported; its attributes are those in the file."""

    def __new__(cls, *_: object, **__: object) -> "StandIn":
        """Make one, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Ignore the arguments."""

    def __call__(self, *_: object, **__: object) -> "StandIn":
        """Return another stand-in, as for a function that is not run."""
        return StandIn()

    def __setstate__(self, state: object) -> None:
        """Keep the attributes."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(key): value for key, value in part.items()})

    def __setitem__(self, key: object, value: object) -> None:
        """Ignore the items of a mapping that is not imported."""

    def append(self, value: object) -> None:
        """Ignore the items of a list that is not imported."""

    def extend(self, values: object) -> None:
        """Ignore the items of a list that is not imported."""

    def add(self, value: object) -> None:
        """Ignore the items of a set that is not imported."""


def read_archive(path: Path) -> Any:
    """Return the content of a PyTorch zip archive on the CPU; modules become dictionaries.

    Raises:
        ValueError: it is no such archive, or it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = (it for it in archive.namelist() if it.count("/") == 1)
            name = next((it for it in inside if it.endswith(f"/{_PICKLE}")), "")
            if not name:
                raise ValueError("a zip archive that PyTorch did not write")
            content = _Reader(archive, name).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"damaged: {error}") from error
    except (LookupError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"not as PyTorch writes it: {error}") from error
    return _as_dictionaries(content)


class _Reader(pickle.Unpickler):
    """Rebuilds tensors from the archive's storages; finds no class but those."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)), encoding="utf-8")
        self._archive = archive
        self._folder = name.removesuffix(_PICKLE)
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what rebuilds tensors and dictionaries, and a stand-in for all else."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _parameter
        return type(name, (StandIn,), {})

    def persistent_load(self, pid: Any) -> Any:
        """Return a storage as a flat tensor."""
        _, dtype, key, *_ = pid
        if not isinstance(dtype, torch.dtype):
            return StandIn()
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self._storages[key] = flat
        return self._storages[key]


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: object) -> Any:
    if not isinstance(storage, Tensor):
        return StandIn()
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _parameter(data: Any, *_: object) -> Any:
    return data


def _as_dictionaries(value: Any) -> Any:
    if isinstance(value, StandIn):
        value = vars(value)
        if "_modules" in value:  # a pickled torch.nn.Module
            parts = ("_parameters", "_buffers", "_modules")
            value = {key: inner for part in parts for key, inner in value.get(part, {}).items()}
    if isinstance(value, dict):
        return {key: _as_dictionaries(inner) for key, inner in value.items()}
    return value
