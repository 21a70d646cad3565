"""The features of one image as bytes, and back: other words without the image and its networks.

The bytes are a safetensors file. Its record describes the method's features as their class does,
field by field; reading follows the class and not the bytes, so no bytes name a class to be made,
and memory is taken for no more numbers than there are.

Whole numbers stay whole, in the narrowest type that holds them. Floating-point numbers are stored
in half precision; with `int8` the vectors (`patches_BDhw` has one for each patch) are stored as
whole numbers from -127 to 127 times a scale of their own.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from math import prod
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from ovseg_core.backbones.file_formats.head_file import file_bytes, record_in, tensors_in
from ovseg_core.backbones.file_formats.safetensors_header import LENGTH_BYTES
from ovseg_core.images.proposal_masks import INSIDE, OUTSIDE
from ovseg_core.segmenter import Features, Segmenter
from schemas.errors import FeaturesError

FeaturePrecision = Literal["float16", "int8"]
"""How floating-point numbers are stored."""

_KIND = "features"
_VERSION = "1"
_SCALES = ".scales"
_LARGEST = 127
_MAX_INT = 1 << 31
_WHOLE_TYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (*_WHOLE_TYPES, torch.float16, torch.float32)
}
_AXES = set("BCDKNQWSPhw234")
"""Letters of the axes in the names of fields; a digit is an axis of this size."""


def pack_features(features: Features, precision: FeaturePrecision) -> bytes:
    """Return the features of one image as bytes; `unpack_features` reads them.

    Args:
        features: of a batch of one, see `Features.image`.
        precision: of the floating-point numbers.

    Raises:
        FeaturesError: the method asks a network about the image again, once words are known.
    """
    if len(features) != 1:
        raise ValueError(f"expected the features of one image, got those of {len(features)}")
    packing = _Packing(precision)
    described = json.dumps(packing.described(features, ""), separators=(",", ":"))
    record = {"kind": _KIND, "version": _VERSION, "features": described}
    return file_bytes(packing.tensors, record)


def unpack_features(
    data: bytes,
    segmenter: Segmenter[Any],
    device: torch.device | str = "cpu",
    size_hw: tuple[int, int] | None = None,
) -> Features:
    """Return the features of one image that `pack_features` wrote, as those of a batch of one.

    Args:
        data: the bytes. They may come from anywhere.
        segmenter: the method that computed them, with the same options; it need not be able to
            encode images.
        device: where it runs.
        size_hw: of the image; features that cannot be of one of this size are refused, so that
            scoring takes no more memory than the image's size and the method's settings allow.
            None: not known.

    Raises:
        FeaturesError: the bytes are damaged, or of another method or image.
    """
    try:
        if len(data) < LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little"):
            raise ValueError("they are cut off")
        record, tensors = record_in(data), tensors_in(data)
        if record.get("kind") != _KIND:
            raise ValueError("they are not features of ovseg")
        if record.get("version") != _VERSION:
            raise ValueError(
                f"they are of version {record.get('version')!s:.20}, this ovseg reads {_VERSION}"
            )
        on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
        unpacking = _Unpacking(on_device, segmenter)
        features = unpacking.value(Features, json.loads(record.get("features", "")), "")
        if unpacking.tensors:
            raise ValueError(f"nothing in the method's features is named {min(unpacking.tensors)}")
        if len(features) != 1:
            raise ValueError(f"expected the features of one image, got those of {len(features)}")
        if size_hw is not None:
            segmenter.check_size(features, size_hw)
    except (KeyError, ValueError, RecursionError) as error:
        raise FeaturesError(
            f"stored features cannot be read: {error}; they are damaged, or of another method or "
            "version: compute them again"
        ) from None
    return features


def _features_class(segmenter: Segmenter[Any]) -> tuple[type, Segmenter[Any] | None]:
    """Return the class of a method's features, and the method that is inside, if one is.

    The class is that of `class MyMethod(Segmenter[MyFeatures])`; a wrapper that leaves features as
    they are says `Segmenter[Any]`.
    """
    while True:
        inner: Segmenter[Any] | None = getattr(segmenter, "segmenter", None)
        for kind in type(segmenter).__mro__:
            for base in getattr(kind, "__orig_bases__", ()):
                if get_origin(base) is Segmenter and is_dataclass(get_args(base)[0]):
                    return get_args(base)[0], inner
        if inner is None:
            name = type(segmenter).__name__
            raise TypeError(f"{name} says not what its features are: class {name}(Segmenter[...])")
        segmenter = inner


class _Packing:
    """Features on their way to bytes.

    Args:
        precision: of the floating-point numbers.
    """

    def __init__(self, precision: FeaturePrecision) -> None:
        self._precision = precision
        self.tensors: dict[str, Tensor] = {}

    def described(self, value: Any, path: str) -> Any:
        """Return a value as JSON holds it; tensors go to `tensors`, by their path."""
        if isinstance(value, Tensor):
            return self._tensor(value.detach().cpu(), path)
        if value is None or isinstance(value, int | float | str):
            return value
        if is_dataclass(value):
            return {
                one.name: self.described(getattr(value, one.name), f"{path}.{one.name}".strip("."))
                for one in fields(value)
            }
        if isinstance(value, dict):
            return {key: self.described(one, f"{path}.{key}") for key, one in value.items()}
        if isinstance(value, tuple):
            return [self.described(one, f"{path}.{place}") for place, one in enumerate(value)]
        raise FeaturesError(
            f"the features of this method cannot be stored: {path} is a {type(value).__name__}"
        )

    def _tensor(self, tensor: Tensor, path: str) -> dict[str, Any]:
        described: dict[str, Any] = {"type": str(tensor.dtype).removeprefix("torch.")}
        axis = vector_axis(path, tensor)
        if tensor.dtype == torch.bool or _is_inside_or_outside(tensor):
            described["bits"] = list(tensor.shape)
            bits = np.packbits((tensor > 0).numpy().reshape(-1))
            self.tensors[path] = torch.from_numpy(bits)
        elif not tensor.is_floating_point():
            self.tensors[path] = _narrow(tensor)
        elif self._precision == "int8" and axis is not None:
            largest = tensor.abs().amax(dim=axis, keepdim=True).float()
            scales = largest / _LARGEST
            self.tensors[path] = (tensor / scales.where(scales > 0, 1)).round().char()
            self.tensors[path + _SCALES] = scales
        else:
            halves = tensor.half()
            self.tensors[path] = halves if halves.isfinite().all() else tensor
        return described


def vector_axis(path: str, tensor: Tensor) -> int | None:
    """Return the axis of a tensor's vectors; None: it holds none.

    Maps (B, C, h, w) have one at each cell; of anything else they are the rows, but not of boxes,
    whose numbers are few and places in an image.

    Args:
        path: of the field that holds it.
        tensor: the field's value.
    """
    if tensor.ndim < 2 or _axes(path)[-1:].isdigit():
        return None
    axis = 1 if tensor.ndim == 4 else tensor.ndim - 1
    return axis if tensor.shape[axis] > 1 else None


def _axes(path: str) -> str:
    """Return the axes of a tensor by the name of its field; empty where it tells none."""
    axes = path.rpartition(".")[2].rpartition("_")[2]
    return axes if "_" in path and set(axes) <= _AXES else ""


def _is_inside_or_outside(tensor: Tensor) -> bool:
    """Return whether a tensor is masks that say no more of a pixel."""
    if tensor.ndim != 3 or not tensor.is_floating_point():
        return False
    return bool(((tensor == INSIDE) | (tensor == OUTSIDE)).all())


def _narrow(tensor: Tensor) -> Tensor:
    """Return whole numbers in the narrowest type that holds them."""
    if not tensor.numel():
        return tensor
    low, high = int(tensor.min()), int(tensor.max())
    for dtype in _WHOLE_TYPES[1:]:
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return tensor.to(dtype)
    return tensor


class _Unpacking:
    """Bytes on their way to features.

    Args:
        tensors: by their path; those that are read are taken out.
        segmenter: the method.
    """

    def __init__(self, tensors: Mapping[str, Tensor], segmenter: Segmenter[Any]) -> None:
        self.tensors = dict(tensors)
        self._segmenter: Segmenter[Any] | None = segmenter

    def value(self, kind: Any, described: Any, path: str) -> Any:
        """Return the value of a type.

        Args:
            kind: the type, as a class states it of a field.
            described: what `pack_features` said of the value.
            path: of the field.

        Raises:
            ValueError: it is no such value.
        """
        if kind is Features and self._segmenter is not None:
            kind, self._segmenter = _features_class(self._segmenter)
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            if described is None:
                return None
            kind = next(one for one in arguments if one is not NoneType)
            return self.value(kind, described, path)
        if origin is tuple:
            return self._tuple(arguments, _expected(list, described, path), path)
        if origin is dict:
            items = _expected(dict, described, path).items()
            return {key: self.value(arguments[1], one, f"{path}.{key}") for key, one in items}
        if is_dataclass(kind):
            return self._dataclass(kind, _expected(dict, described, path), path)
        if kind is Tensor:
            return self._tensor(_expected(dict, described, path), path)
        if kind not in (int, float, str):
            raise ValueError(f"{path} cannot be stored")
        return _expected(kind, described, path)

    def _tuple(self, kinds: tuple[Any, ...], described: list[Any], path: str) -> tuple[Any, ...]:
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(described)
        if len(kinds) != len(described):
            raise ValueError(f"{path}: expected {len(kinds)} values, got {len(described)}")
        pairs = enumerate(zip(kinds, described, strict=True))
        return tuple(self.value(kind, one, f"{path}.{place}") for place, (kind, one) in pairs)

    def _dataclass(self, kind: Any, described: dict[str, Any], path: str) -> Any:
        kinds = _field_types(kind)
        names = list(kinds)
        if sorted(names) != sorted(described):
            raise ValueError(
                f"{path or 'features'}: expected {', '.join(names)}, got "
                f"{', '.join(map(str, described))[:200]}"
            )
        return kind(
            **{
                name: self.value(kinds[name], described[name], f"{path}.{name}".strip("."))
                for name in names
            }
        )

    def _tensor(self, described: dict[str, Any], path: str) -> Tensor:
        stored = self.tensors.pop(path, None)
        dtype = _TYPES.get(_expected(str, described.get("type"), path))
        if stored is None or dtype is None:
            raise ValueError(f"the tensor {path} is missing")
        if "bits" in described:
            inside = _from_bits(stored, described["bits"], path)
            tensor = inside if dtype == torch.bool else inside * (INSIDE - OUTSIDE) + OUTSIDE
        elif path + _SCALES in self.tensors:
            tensor = self._from_vectors(stored, path)
        else:
            tensor = stored
        if tensor.is_floating_point() != dtype.is_floating_point:
            raise ValueError(f"{path}: expected {dtype}, got {tensor.dtype}")
        tensor = tensor.to(dtype)
        if not tensor.isfinite().all():
            raise ValueError(f"{path} holds NaN or infinity")
        _check_axes(path, tensor)
        return tensor

    def _from_vectors(self, stored: Tensor, path: str) -> Tensor:
        scales = self.tensors.pop(path + _SCALES)
        axis = vector_axis(path, stored)
        expected = list(stored.shape)
        if axis is not None:
            expected[axis] = 1
        if axis is None or stored.dtype != torch.int8 or list(scales.shape) != expected:
            raise ValueError(f"{path}: its scales are not those of its vectors")
        return stored.float() * scales.float()


@cache
def _field_types(kind: Any) -> dict[str, Any]:
    types = get_type_hints(kind)
    return {one.name: types[one.name] for one in fields(kind)}


def _from_bits(stored: Tensor, shape: Any, path: str) -> Tensor:
    """Return which of the bits are set, as bool of a shape."""
    sizes = [_expected(int, size, path) for size in _expected(list, shape, path)]
    count = prod(sizes)
    if min(sizes, default=0) < 0 or stored.dtype != torch.uint8 or stored.ndim != 1:
        raise ValueError(f"{path}: expected bits")
    if len(stored) != -(-count // 8):
        raise ValueError(f"{path}: expected {count} bits, got {8 * len(stored)}")
    bits = np.unpackbits(stored.cpu().numpy(), count=count).reshape(sizes)
    return torch.from_numpy(bits).bool().to(stored.device)


def _check_axes(path: str, tensor: Tensor) -> None:
    """Check a shape against the axes that the field's name tells, if it does."""
    axes = _axes(path)
    if not axes:
        return
    fits = len(axes) == tensor.ndim and all(
        not axis.isdigit() or size == int(axis)
        for axis, size in zip(axes, tensor.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{path}: got the shape {tuple(tensor.shape)}")


def _expected(kind: Callable[..., Any], value: Any, path: str) -> Any:
    # A bool is an int to Python, and an int may have any number of digits.
    if type(value) is not kind or (kind is int and not abs(value) < _MAX_INT):
        raise ValueError(f"{path or 'features'}: expected {kind}, got {value!s:.40}")
    return value
