"""Files of trained heads: which network a head belongs to is written in them, and checked.

A head that `ovseg train-heads` wrote says what it was trained on; loaded beside another network it
would give numbers without meaning, so it is refused. The authors' own files say nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from schemas.errors import WeightsError

_LENGTH = 8
"""Bytes of a safetensors file that hold the length of its header."""
_MOST_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_ENTRY = "ovseg"
"""One entry for all: several would be written in another order each time."""


def head_bytes(
    tensors: Mapping[str, Tensor], kind: str, network: str, record: Mapping[str, str]
) -> bytes:
    """Return a head as the content of a safetensors file.

    Args:
        tensors: the weights by name.
        kind: which head it is, for example `found`.
        network: SHA-256 of the weights file of the network that it reads.
        record: how it was trained, in further entries.
    """
    entries = {"kind": kind, "network": network, **record}
    fingerprint = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    return file_bytes(tensors, {**entries, "fingerprint": fingerprint})


def file_bytes(tensors: Mapping[str, Tensor], record: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file; the same tensors and record give the same bytes."""
    named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(named, {_ENTRY: json.dumps(record, sort_keys=True)})


def read_record(file: str | Path) -> dict[str, str]:
    """Return what a head's file says of itself; see `record_in`.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    if Path(file).suffix != ".safetensors":
        return {}
    try:
        with Path(file).open("rb") as content:
            start = content.read(_LENGTH)
            length = int.from_bytes(start, "little")
            return record_in(start + content.read(min(length, _MOST_HEADER_BYTES)))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} is not a weights file: {error}") from error


def record_in(data: bytes) -> dict[str, str]:
    """Return what `file_bytes` wrote beside the tensors; empty for files of other origin.

    Args:
        data: content of the file, or its first part.

    Raises:
        ValueError: it is no safetensors file.
    """
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    entries: dict[str, str] = json.loads(data[_LENGTH:end]).get("__metadata__", {})
    return json.loads(entries.get(_ENTRY, "{}"))


def check_trained_for(file: str | Path, kind: str, network_file: str) -> None:
    """Refuse a head that was trained for something else; a file that says nothing passes.

    Args:
        file: the head's.
        kind: which head is wanted.
        network_file: weights of the network that it is to read.

    Raises:
        WeightsError: another kind of head, or one of another network.
    """
    record = read_record(file)
    if not record:
        return
    if record["kind"] != kind:
        raise WeightsError(
            f"{file} is a head of the kind {record['kind']!r}, expected {kind!r}; "
            f"`ovseg train-heads --head {kind}` makes one"
        )
    network = file_sha256(network_file)
    if record["network"] != network:
        raise WeightsError(
            f"{file} was trained for a network whose weights have the SHA-256 "
            f"{record['network'][:12]}..., but {network_file} has {network[:12]}...; give that "
            f"network, or train a head for this one with `ovseg train-heads --head {kind}`"
        )


def file_sha256(file: str | Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with Path(file).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
