"""Weights files as a stranger could make them: lies about sizes, bombs, pickles that want to run.

Each is written by hand, because the libraries refuse to write them.
"""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._utils import _rebuild_tensor_v2

_PROTOCOL = b"\x80\x02"
_GIB = 1 << 30
_LOCAL_HEADER = 30


class Storage:
    """What a pickle says of a storage; `claim` is its number of elements."""

    def __init__(self, claim: Any = 4, key: Any = "0", kind: Any = torch.FloatStorage) -> None:
        self.pid = ("storage", kind, key, "cpu", claim)


class Call:
    """A function that a pickle calls with any arguments."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def tensor(
    size: Any, stride: Any = (1,), offset: Any = 0, storage: Any = None, function: Any = None
) -> Call:
    """A tensor as a pickle describes it."""
    rebuild = function or _rebuild_tensor_v2
    return Call(rebuild, storage or Storage(), offset, size, stride, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, Storage) else None


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(content)
    return buffer.getvalue()


def archive(
    content: Any,
    records: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
    byteorder: bytes = b"little",
) -> bytes:
    """What `torch.save` writes; `content` is pickled unless it is bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        data = content if isinstance(content, bytes) else pickled(content)
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", byteorder)
        for name, record in ({"0": bytes(16)} if records is None else records).items():
            file.writestr(f"archive/data/{name}", record)
        file.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def old_format(content: Any, keys: Any = ("0",), storages: bytes | None = None) -> bytes:
    """What `torch.save` wrote before 1.6."""

    class OldPickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return (*obj.pid, None) if isinstance(obj, Storage) else None

    buffer = io.BytesIO()
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    for part in (0x1950A86A20F9469CFC6C, 1001, system):
        pickle.dump(part, buffer, 2)
    if isinstance(content, bytes):
        buffer.write(content)
    else:
        OldPickler(buffer, 2).dump(content)
    pickle.dump(list(keys), buffer, 2)
    buffer.write(struct.pack("<q", 4) + bytes(16) if storages is None else storages)
    return buffer.getvalue()


def safetensors(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """A safetensors file; `header` is JSON unless it is bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}


def _doubled(levels: int) -> dict[str, Any]:
    content: dict[str, Any] = {"w": tensor((4,))}
    for _ in range(levels):
        content = {"a": content, "b": content}
    return content


def _endless() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


def _overlapping_records(count: int, size_bytes: int) -> bytes:
    """Many records of an archive that all are one place of the file."""
    names = [f"{number:06d}" for number in range(count)]
    content = {
        name: tensor((size_bytes // 4,), storage=Storage(size_bytes // 4, name))
        for name in names[:1000]
    }
    whole = archive(content, {names[0]: bytes(size_bytes)})
    end = whole.rfind(b"PK\x05\x06")
    entries, size, start = struct.unpack("<HII", whole[end + 10 : end + 20])
    directory = whole[start : start + size]
    place = directory.find(b"archive/data/000000") - 46
    entry = directory[place : directory.find(b"PK\x01\x02", place + 1)]
    copies = b"".join(entry.replace(b"data/000000", f"data/{n}".encode()) for n in names[1:])
    entries = (entries + count - 1) % (1 << 16)
    sizes = struct.pack("<HHII", entries, entries, size + len(copies), start)
    return whole[:start] + directory + copies + whole[end : end + 8] + sizes + b"\0\0"


def _claimed_record_size(size_bytes: int) -> bytes:
    """An archive whose directory says that a record is larger than the file."""
    whole = archive({"w": tensor((4,))})
    place = whole.rfind(b"archive/data/0") - 46
    sizes = struct.pack("<II", size_bytes, size_bytes)
    return whole[: place + 20] + sizes + whole[place + 28 :]


def _nested_pickle(opening: bytes, closing: bytes, levels: int, after: bytes = b"") -> bytes:
    return _PROTOCOL + opening * levels + closing * levels + after + b"."


_DEEP = 120_000
PICKLES: dict[str, Callable[[], bytes]] = {
    "storage claims more than its record": lambda: archive(
        {"w": tensor((1 << 20,), storage=Storage(1 << 20))}
    ),
    "storage claims 10^12": lambda: archive({"w": tensor((10**12,), storage=Storage(10**12))}),
    "size beyond the storage": lambda: archive({"w": tensor((5,))}),
    "offset beyond the storage": lambda: archive({"w": tensor((4,), offset=1)}),
    "offset of 2^62": lambda: archive({"w": tensor((1,), offset=1 << 62)}),
    "stride beyond the storage": lambda: archive({"w": tensor((2, 2), (3, 1))}),
    "negative stride": lambda: archive({"w": tensor((4,), (-1,), 3)}),
    "negative offset": lambda: archive({"w": tensor((4,), offset=-2)}),
    "negative size": lambda: archive({"w": tensor((-4,))}),
    "10^12 elements in one number": lambda: archive({"w": tensor((10**6, 10**6), (0, 0))}),
    "sizes that wrap around": lambda: archive({"w": tensor((1 << 62, 4), (4, 1))}),
    "sizes of 10^30": lambda: archive({"w": tensor((10**30,))}),
    "100,000 dimensions": lambda: archive({"w": tensor((1,) * 100_000, (1,) * 100_000)}),
    "sizes that are no numbers": lambda: archive({"w": tensor(("4",), (1.0,))}),
    "no sizes": lambda: archive({"w": tensor(None, None)}),
    "storage that is no storage": lambda: archive({"w": tensor((4,), storage={"a": 1})}),
    "storage key that climbs": lambda: archive({"w": tensor((4,), storage=Storage(4, "../0"))}),
    "storage key that is a list": lambda: archive({"w": tensor((4,), storage=Storage(4, ["0"]))}),
    "record of half an element": lambda: archive({"w": tensor((4,))}, {"0": bytes(15)}),
    "no records": lambda: archive({"w": tensor((4,))}, {}),
    "other byte order": lambda: archive({"w": tensor((4,))}, byteorder=b"big"),
    "deep list": lambda: archive(_nested_pickle(b"]", b"a", 5000)),
    "deep dictionary": lambda: archive(
        _PROTOCOL + b"}" + b"X\x01\x00\x00\x00a}" * 5000 + b"s" * 5000 + b"."
    ),
    "deep tuple as a key": lambda: archive(
        _PROTOCOL + b"})" + b"\x85" * _DEEP + b"K\x01s" + b"."
    ),
    "deep tuple in a set": lambda: archive(_PROTOCOL + b"\x8f()" + b"\x85" * _DEEP + b"\x90."),
    "deep frozenset": lambda: archive(_PROTOCOL + b"(N" + b"\x91(" * 5000 + b"N\x91."),
    "dictionary doubled 40 times": lambda: archive(_doubled(40)),
    "dictionary in itself": lambda: archive(_endless()),
    "list in itself": lambda: archive(_PROTOCOL + b"]q\x00h\x00a."),
    "memo of 2^31 places": lambda: archive(_PROTOCOL + b"Nr\xff\xff\xff\x7f0N."),
    "memo of 10^18 places": lambda: archive(_PROTOCOL + b"Np999999999999999999\n."),
    "memo never filled": lambda: archive(_PROTOCOL + b"h\x07."),
    "text of 2^60 bytes": lambda: archive(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a."),
    "bytes of 30 GB": lambda: archive(b"\x80\x05\x96" + struct.pack("<Q", 30 * _GIB) + b"a."),
    "frame of 2^60 bytes": lambda: archive(b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N."),
    "number of 2^31 bytes": lambda: archive(_PROTOCOL + b"\x8b\xff\xff\xff\x7f\x01."),
    "number of a million digits": lambda: archive(_PROTOCOL + b"L" + b"9" * 10**6 + b"L\n."),
    "key of 10^5 digits": lambda: archive(
        _PROTOCOL + b"}\x8a\xff" + b"\x7f" * 255 + b"\x8b" + struct.pack("<i", 40_000)
        + b"\x7f" * 40_000 + b"s."
    ),
    "million numbers": lambda: archive(_PROTOCOL + b"](" + b"K\x01" * 1_000_000 + b"e."),
    "no end": lambda: archive(_PROTOCOL + b"}"),
    "nothing": lambda: archive(b""),
    "empty stack": lambda: archive(_PROTOCOL + b"0000."),
    "mark instead of a value": lambda: archive(_PROTOCOL + b"((a."),
    "name that is no name": lambda: archive(b"\x80\x04K\x01K\x02\x93."),
    "class with NUL in its name": lambda: archive(_PROTOCOL + b"ca\n\x00\n)R."),
    "extension": lambda: archive(_PROTOCOL + b"\x82\x01."),
    "buffer from outside": lambda: archive(b"\x80\x05\x97."),
    "unknown instruction": lambda: archive(_PROTOCOL + b"\xff."),
    "state of a tensor": lambda: archive(
        {"w": Call(torch.Tensor, 10**12), "v": Call(torch._utils._rebuild_tensor, 1, 2, 3, 4)}
    ),
    "compressed 64 MB": lambda: archive(
        {"w": tensor((16 << 20,), storage=Storage(16 << 20))},
        {"0": bytes(64 << 20)},
        zipfile.ZIP_DEFLATED,
    ),
    "compressed pickle": lambda: archive(
        _PROTOCOL + b"X" + struct.pack("<I", 1 << 25) + bytes(1 << 25) + b".",
        {},
        zipfile.ZIP_DEFLATED,
    ),
    "a thousand records in one place": lambda: _overlapping_records(1000, 1 << 20),
    "record larger than the file": lambda: _claimed_record_size(0xFFFFFFF0),
    "200,000 records": lambda: _overlapping_records(200_000, 4),
    "no pickle": lambda: archive(b"hello"),
}  # fmt: skip
"""Files of `torch.save` that hold no usable tensors."""

OLD_PICKLES: dict[str, Callable[[], bytes]] = {
    "storage claims 10^12": lambda: old_format({"w": tensor((10**12,), storage=Storage(10**12))}),
    "storage has 10^12": lambda: old_format(
        {"w": tensor((10**12,), storage=Storage(10**12))}, storages=struct.pack("<q", 10**12)
    ),
    "negative number of elements": lambda: old_format(
        {"w": tensor((4,))}, storages=struct.pack("<q", -4) + bytes(16)
    ),
    "size beyond the storage": lambda: old_format({"w": tensor((5,))}),
    "storage that is not there": lambda: old_format({"w": tensor((4,))}, keys=()),
    "keys that are no texts": lambda: old_format({"w": tensor((4,))}, keys=([1], {})),
    "storage twice": lambda: old_format({"w": tensor((4,))}, keys=("0", "0")),
    "deep tuple as a key": lambda: old_format(
        _PROTOCOL + b"})" + b"\x85" * _DEEP + b"K\x01s" + b"."
    ),
    "memo of 2^31 places": lambda: old_format(_PROTOCOL + b"Nr\xff\xff\xff\x7f0N."),
    "cut off": lambda: old_format({"w": tensor((4,))})[:-9],
    "first part only": lambda: old_format({"w": tensor((4,))})[:20],
}  # fmt: skip
"""Files of PyTorch's old format that hold no usable tensors."""

SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "offsets beyond the file": lambda: safetensors(_entry(shape=[400], data_offsets=[0, 1600])),
    "10^12 elements": lambda: safetensors(_entry(shape=[10**12])),
    "10^12 elements with their offsets": lambda: safetensors(
        _entry(shape=[10**12], data_offsets=[0, 4 * 10**12])
    ),
    "sizes that wrap around": lambda: safetensors(_entry(shape=[1 << 62, 4, 4])),
    "negative size": lambda: safetensors(_entry(shape=[-4])),
    "negative offset": lambda: safetensors(_entry(data_offsets=[-16, 0])),
    "offsets backwards": lambda: safetensors(_entry(data_offsets=[16, 0])),
    "overlapping tensors": lambda: safetensors(
        {**_entry(), "v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    ),
    "gap before a tensor": lambda: safetensors(_entry(shape=[2], data_offsets=[8, 16])),
    "bytes of no tensor": lambda: safetensors(_entry(), bytes(32)),
    "unknown type": lambda: safetensors(_entry(dtype="F32; DROP")),
    "type of another kind": lambda: safetensors(_entry(dtype=["F32"])),
    "size as text": lambda: safetensors(_entry(shape=["4"])),
    "size as a fraction": lambda: safetensors(_entry(shape=[4.0])),
    "three offsets": lambda: safetensors(_entry(data_offsets=[0, 8, 16])),
    "no offsets": lambda: safetensors({"w": {"dtype": "F32", "shape": [4]}}),
    "100,000 dimensions": lambda: safetensors(_entry(shape=[1] * 100_000 + [4])),
    "header of 2^60 bytes": lambda: safetensors(_entry(), length=1 << 60),
    "header of 2^64 bytes": lambda: safetensors(_entry(), length=(1 << 64) - 1),
    "header of no bytes": lambda: safetensors(b"", length=0) + b"{",
    "header of 20 MB": lambda: safetensors(b'{"w":[' + b"1," * 10_000_000 + b"1]}"),
    "30,000 tensors": lambda: safetensors(
        {f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(30_000)},
        b"",
    ),
    "deep header": lambda: safetensors(b'{"w":' + b"[" * _DEEP + b"]" * _DEEP + b"}"),
    "header that is a list": lambda: safetensors(b"[1, 2, 3]     "),
    "tensor that is a number": lambda: safetensors({"w": 3}),
    "name given twice": lambda: safetensors(
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "header that is no text": lambda: safetensors(b'{"\xff\xfe": 1}'),
    "number of a million digits": lambda: safetensors(
        b'{"w":{"dtype":"F32","shape":[' + b"9" * 10**6 + b'],"data_offsets":[0,16]}}'
    ),
}  # fmt: skip
"""Safetensors files with lies in their header."""
