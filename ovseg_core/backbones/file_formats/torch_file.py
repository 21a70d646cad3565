"""Read the tensors in what `torch.save` or `torch.jit.save` wrote, without running its code.

Two containers: a zip archive (since PyTorch 1.6, and TorchScript), and pickles with the storages
behind them. Tensors are views of the file mapped into memory, so that nothing is copied before
their shapes are known to be those of a network. `torch.load` is not used: it takes as much memory
as a file says, and ends the process at a deeply nested key.
"""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_core.backbones.file_formats.inert_pickle import (
    MAX_PICKLE_BYTES,
    PickleReader,
    as_dictionaries,
)

_PICKLE = "data.pkl"
_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_DIRECTORY_BYTES = 8 << 20
"""Of an archive: some 60,000 entries."""
_DIRECTORY_END, _DIRECTORY_END_BYTES = b"PK\x05\x06", 22
_DIRECTORY_END_64, _DIRECTORY_END_64_BYTES = b"PK\x06\x06", 76
"""The second stands before the first, with 20 bytes between that say where it is."""
_MAX_END_BYTES = 1 << 16
_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_COUNT_BYTES = 8


def read_torch_file(path: Path, *, is_archive: bool) -> Any:
    """Return the content of a file on the CPU; modules and other objects become dictionaries.

    Args:
        path: of the file.
        is_archive: it is a zip archive, not of the old format.

    Raises:
        ValueError: PyTorch did not write it, it is damaged, or beyond the limits.
    """
    size_bytes = path.stat().st_size
    file = torch.from_file(str(path), shared=False, size=size_bytes, dtype=torch.uint8)
    if not is_archive:
        return as_dictionaries(_read_old_format(file))
    try:
        with path.open("rb") as stream:
            _check_directory(file)
            with zipfile.ZipFile(stream) as archive:
                return as_dictionaries(_Archive(archive, file).read())
    except (zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is damaged: {error}") from error


class _Archive:
    """A zip archive that PyTorch wrote.

    Args:
        archive: open.
        file: all its bytes, uint8.
    """

    def __init__(self, archive: zipfile.ZipFile, file: Tensor) -> None:
        self._archive = archive
        self._file = file
        self._records: dict[str, Tensor] = {}
        self._taken_bytes = 0
        names = (name for name in archive.namelist() if name.count("/") == 1)
        pickle = next((name for name in names if name.endswith(f"/{_PICKLE}")), "")
        if not pickle:
            raise ValueError("it is a zip archive that PyTorch did not write")
        self._folder = pickle.removesuffix(_PICKLE)

    def read(self) -> Any:
        """Return the content of its pickle."""
        if f"{self._folder}byteorder" in self._archive.NameToInfo:
            order = self._record("byteorder")
            if bytes(order[:6].tolist()) != b"little":
                raise ValueError("its numbers have another byte order (big endian)")
        pickle = self._record(_PICKLE)
        if len(pickle) > MAX_PICKLE_BYTES:
            raise ValueError(f"its pickle has more than {MAX_PICKLE_BYTES >> 20} MB")
        return PickleReader(io.BytesIO(pickle.numpy().tobytes()), self._storage).read()

    def _storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        record = self._record(f"data/{key}")
        return _elements(record, dtype, count, f"the storage {key!r:.40}")

    def _record(self, name: str) -> Tensor:
        """Return the bytes of an entry; PyTorch stores all without compression."""
        if name not in self._records:
            info = self._archive.NameToInfo.get(f"{self._folder}{name}")
            if info is None:
                raise ValueError(f"it is damaged: it has no {name!r:.40}")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise ValueError("its entries are compressed or encrypted, PyTorch's never are")
            header = bytes(self._file[info.header_offset :][:_LOCAL_HEADER_BYTES].tolist())
            if len(header) < _LOCAL_HEADER_BYTES or not header.startswith(_LOCAL_HEADER):
                raise ValueError("it is damaged: an entry begins outside of the file")
            start = (
                info.header_offset + _LOCAL_HEADER_BYTES + sum(struct.unpack("<HH", header[26:]))
            )
            record = self._file[start : start + info.file_size]
            self._taken_bytes += info.file_size
            if len(record) != info.file_size or self._taken_bytes > len(self._file):
                raise ValueError("it is damaged: its entries hold more than the file")
            if zlib.crc32(record.numpy().data) != info.CRC:
                raise ValueError("it is damaged: a checksum does not fit")
            self._records[name] = record
        return self._records[name]


def _check_directory(file: Tensor) -> None:
    """Check the size of an archive's list of entries, before Python reads it.

    Raises:
        ValueError: it is cut off, or has far more entries than PyTorch writes.
    """
    end = bytes(file[-_MAX_END_BYTES:].tolist())
    last = len(end) - _DIRECTORY_END_BYTES
    place = last if end[last:].startswith(_DIRECTORY_END) else end.rfind(_DIRECTORY_END)
    if place < 0 or place > last:
        raise ValueError("it is cut off: fetch it again")
    sizes = [*struct.unpack_from("<I", end, place + 12)]
    place_64 = place - _DIRECTORY_END_64_BYTES
    if place_64 >= 0 and end[place_64:].startswith(_DIRECTORY_END_64):
        sizes = [*struct.unpack_from("<Q", end, place_64 + 40)]
    if max(sizes) > min(_MAX_DIRECTORY_BYTES, len(file)):
        raise ValueError("its list of entries is far longer than those that PyTorch writes")


def _read_old_format(file: Tensor) -> Any:
    """Return the content of a file of PyTorch before 1.6.

    Its pickles are a magic number, a version, the system, the content, and the keys of the
    storages; then the storages, each after its number of elements.
    """
    pickles = io.BytesIO(file[:MAX_PICKLE_BYTES].numpy().tobytes())
    magic, _, system = [PickleReader(pickles).read() for _ in range(3)]
    if magic != _MAGIC or not isinstance(system, dict):
        raise ValueError("PyTorch did not write it")
    if system.get("little_endian") is not True:
        raise ValueError("its numbers have another byte order (big endian)")
    begin = pickles.tell()
    dtypes: dict[str, torch.dtype] = {}
    # Once for the types of the storages, which say where each begins; once for the tensors.
    PickleReader(pickles, lambda key, dtype, _: dtypes.setdefault(key, dtype)).read()
    keys = PickleReader(pickles).read()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it is damaged: its storages have no keys")
    storages: dict[str, Tensor] = {}
    place = pickles.tell()
    for key in keys:
        dtype = dtypes.get(key)
        head = bytes(file[place : place + _COUNT_BYTES].tolist())
        count = int.from_bytes(head, "little", signed=True)
        if dtype is None or len(head) < _COUNT_BYTES or count < 0:
            raise ValueError("it is damaged: a storage has no type or no number of elements")
        place += _COUNT_BYTES
        storages[key] = _elements(file[place:], dtype, count, f"the storage {key!r:.40}")
        place += count * dtype.itemsize

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        found = storages.get(key)
        if found is None or found.dtype != dtype or len(found) < count:
            raise ValueError(f"it is damaged: it has no storage {key!r:.40} as its pickle says")
        return found[:count]

    pickles.seek(begin)
    return PickleReader(pickles, storage).read()


def _elements(record: Tensor, dtype: torch.dtype, count: int, what: str) -> Tensor:
    """Return the first bytes of a record as elements; a record may be longer.

    Raises:
        ValueError: it is shorter.
    """
    size_bytes = count * dtype.itemsize
    if size_bytes > len(record):
        raise ValueError(
            f"it is damaged: {what} is to have {size_bytes:,} bytes and has {len(record):,}"
        )
    part = record[:size_bytes]
    return (part if part.storage_offset() % dtype.itemsize == 0 else part.clone()).view(dtype)
