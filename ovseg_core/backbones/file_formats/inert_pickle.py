"""Read the tensors in a pickle without running any code that it names.

Python's own unpickler is not used at all: beside calling what a file names it ends the process at a
deeply nested key, and takes as much memory as a number in the file says. Here a pickle is only read
instruction by instruction: tensors, dictionaries, lists and plain values are rebuilt, and whatever
else the file calls or makes becomes an empty stand-in that keeps its attributes.
"""

import io
import math
import pickletools
from collections.abc import Callable, Sized
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ovseg_core.backbones.file_formats.limits import MAX_NESTING, check_shape

MAX_PICKLE_BYTES = 32 << 20
_MAX_INSTRUCTIONS = 700_000
"""A checkpoint of 20,000 tensors has fewer."""
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
_TENSORS = {("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2")}
_PARAMETERS = {
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
}
_DICTIONARIES = {("collections", "OrderedDict"), ("builtins", "dict"), ("__builtin__", "dict")}
_MARK = object()
_TOO_MUCH = "its pickle holds far more than the tensors of a network"
_KEYS = str | int | float | bytes | None
"""Types of keys that are kept; bool is an int."""

ReadStorage = Callable[[str, torch.dtype, int], Any]
"""Returns a storage as a flat tensor, given its key, its type and its number of elements. Where it
returns something else, the tensors on it become stand-ins."""


class StandIn:
    """An object that is not made; its attributes are those in the file."""

    __slots__ = ("attributes",)

    def __init__(self) -> None:
        self.attributes: dict[Any, Any] = {}


class _Name:
    """A class or function that is not looked up."""

    def __init__(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self.names = (module, name)


class PickleReader:
    """Reads one pickle.

    Args:
        stream: in memory, at the pickle's first byte; afterwards it is behind the pickle.
        storage: see `ReadStorage`; None: no tensors are rebuilt.
    """

    _CONSTANTS: ClassVar[dict[str, Any]] = {
        "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK,
    }  # fmt: skip
    _EMPTY: ClassVar[dict[str, Callable[[], Any]]] = {
        "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": StandIn,
        "EXT1": StandIn, "EXT2": StandIn, "EXT4": StandIn,
    }  # fmt: skip
    _VALUES: ClassVar[set[str]] = {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
        "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    }  # fmt: skip

    def __init__(self, stream: io.BytesIO, storage: ReadStorage | None = None) -> None:
        self._stream = stream
        self._storage = storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0
        self._others = {
            name.removeprefix("_op_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_op_")
        }

    def read(self) -> Any:
        """Return the content; tensors are views of their storages.

        Raises:
            ValueError: it is damaged or beyond the limits, or a tensor leaves its storage.
        """
        try:
            return self._run()
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError("it is damaged: its pickle cannot be read") from error

    def _run(self) -> Any:
        stack = self._stack
        for number, found in enumerate(pickletools.genops(self._stream)):
            if number > _MAX_INSTRUCTIONS:
                raise ValueError(_TOO_MUCH)
            name, argument = found[0].name, cast(Any, found[1])
            if name in self._VALUES:
                stack.append(argument)
            elif name in self._CONSTANTS:
                stack.append(self._CONSTANTS[name])
            elif name in self._EMPTY:
                stack.append(self._EMPTY[name]())
            elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                self._memo[len(self._memo) if argument is None else argument] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(self._memo[argument])
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                self._others[name.lower()](argument)
        raise ValueError("it is damaged: its pickle has no end")

    def _to_mark(self) -> list[Any]:
        """Take all values from the stack that lie above the last mark, and the mark."""
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        values = self._stack[place + 1 :]
        del self._stack[place:]
        return values

    def _op_pop(self, _: Any) -> None:
        self._stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._to_mark()

    def _op_dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _op_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _op_tuple1(self, _: Any) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _op_tuple2(self, _: Any) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _op_tuple3(self, _: Any) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _op_list(self, _: Any) -> None:
        self._stack.append(self._to_mark())

    def _op_dict(self, _: Any) -> None:
        values = self._to_mark()
        self._stack.append({})
        self._set_items(values)

    def _op_frozenset(self, _: Any) -> None:
        self._to_mark()
        self._stack.append(StandIn())

    def _op_append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._to_mark())

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)

    def _op_additems(self, _: Any) -> None:
        self._to_mark()

    def _op_setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._set_items(self._to_mark())

    def _set_items(self, values: list[Any]) -> None:
        """Put keys and values into the mapping on the stack.

        Other keys than plain values are left out: a tensor of a network has a text as its name.
        """
        target = self._stack[-1]
        pairs = zip(values[::2], values[1::2], strict=True)
        if isinstance(target, dict):
            target.update((key, value) for key, value in pairs if isinstance(key, _KEYS))

    def _op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(_Name(module, name))

    def _op_stack_global(self, _: Any) -> None:
        self._stack[-2:] = [_Name(self._stack[-2], self._stack[-1])]

    def _op_reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(function, arguments))

    def _op_newobj(self, _: Any) -> None:
        self._op_reduce(None)

    def _op_newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._op_reduce(None)

    def _op_obj(self, _: Any) -> None:
        self._to_mark()
        self._stack.append(StandIn())

    def _op_inst(self, _: Any) -> None:
        self._op_obj(None)

    def _op_build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, StandIn):
            # With slots the state is a pair of dictionaries.
            is_pair = isinstance(state, tuple) and len(state) == 2
            for part in state if is_pair else (state,):
                if isinstance(part, dict):
                    self._count(part)
                    target.attributes.update(part)

    def _count(self, copied: Sized) -> None:
        """Count copied items: one list may be copied at each instruction."""
        self._copied += len(copied)
        if self._copied > _MAX_INSTRUCTIONS:
            raise ValueError(_TOO_MUCH)

    def _op_persid(self, argument: str) -> None:
        self._stack.append(self._stored(argument))

    def _op_binpersid(self, _: Any) -> None:
        self._stack.append(self._stored(self._stack.pop()))

    def _stored(self, identity: Any) -> Any:
        """Return a storage as a flat tensor; of other types than those of weights a stand-in."""
        parts: list[Any] = list(identity) if isinstance(identity, tuple) else []
        if self._storage is None or len(parts) < 5 or parts[0] != "storage":
            return StandIn()
        kind, key, count = parts[1], parts[2], parts[4]
        dtype = _DTYPES.get(kind.names[1]) if isinstance(kind, _Name) else None
        if dtype is None or kind.names[0] != "torch":
            return StandIn()
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("it is damaged: a storage has no key or no number of elements")
        return self._storage(key, dtype, count)

    def _called(self, function: Any, arguments: Any) -> Any:
        """Return what a call would make: a tensor, a dictionary, or a stand-in."""
        names = function.names if isinstance(function, _Name) else None
        if not isinstance(arguments, tuple):
            return StandIn()
        if names in _TENSORS and len(arguments) >= 4:
            storage, offset, size, stride = arguments[:4]
            is_storage = isinstance(storage, Tensor)
            return _view(storage, offset, size, stride) if is_storage else StandIn()
        if names in _PARAMETERS and arguments:
            return arguments[0]
        if names not in _DICTIONARIES:
            return StandIn()
        made: dict[Any, Any] = {}
        if arguments and isinstance(arguments[0], list):  # as Python 2 wrote them
            self._count(arguments[0])
            pairs = (pair for pair in arguments[0] if isinstance(pair, list | tuple))
            made.update((pair[0], pair[1]) for pair in pairs if isinstance(pair[0], _KEYS))
        return made


def _view(storage_N: Tensor, offset: Any, size: Any, stride: Any) -> Tensor:
    """Return the tensor of a size and stride on a flat storage that holds N elements."""
    size, stride = check_shape(size), check_shape(stride)
    if type(offset) is not int or offset < 0 or len(stride) != len(size):
        raise ValueError("it is damaged: a tensor's offset or strides are none")
    count, held = math.prod(size), storage_N.numel()
    last = offset + sum((one - 1) * step for one, step in zip(size, stride, strict=True))
    if count and (last >= held or count > held):
        raise ValueError(
            f"it is damaged: a tensor of the shape {size} lies on a storage of {held} elements"
        )
    return storage_N.as_strided(size, stride, storage_N.storage_offset() + (offset if count else 0))


def as_dictionaries(value: Any) -> Any:
    """Return the content of a pickle with modules and other objects as dictionaries.

    Raises:
        ValueError: they lie in each other too deeply.
    """
    return _as_dictionaries(value, {}, 0)


def _as_dictionaries(value: Any, done: dict[int, Any], nesting: int) -> Any:
    """Return a value converted; each object is converted once, however often it is named."""
    if not isinstance(value, StandIn | dict):
        return value
    if id(value) not in done:
        if nesting > MAX_NESTING:
            raise ValueError(f"its dictionaries lie more than {MAX_NESTING} deep in each other")
        content = value.attributes if isinstance(value, StandIn) else value
        if isinstance(value, StandIn) and "_modules" in content:  # a pickled torch.nn.Module
            parts = [content.get(part) for part in ("_parameters", "_buffers", "_modules")]
            content = {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}
        done[id(value)] = {
            key: _as_dictionaries(inner, done, nesting + 1) for key, inner in content.items()
        }
    return done[id(value)]
