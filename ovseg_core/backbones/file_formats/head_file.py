"""Files of trained heads: how they are written, found, checked and loaded.

A head that `ovseg train-heads` wrote records which network it was trained on; with another network
its numbers would be meaningless, so it is refused. The authors' own files have no such record.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ovseg_core.backbones.checkpoint import check_finite_weights, one_line, read_tensors
from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.file_formats.safetensors_header import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    check_header,
)
from ovseg_core.backbones.registry import Backbones
from schemas.config import EMBEDDED
from schemas.errors import StorageError, WeightsError

_ENTRY = "ovseg"
"""The record is one metadata entry: the order of several would change from file to file."""


def head_bytes(
    tensors: Mapping[str, Tensor], kind: str, network: str, record: Mapping[str, str]
) -> bytes:
    """Return a head as the content of a safetensors file.

    Args:
        tensors: the weights by name.
        kind: which head it is, for example `found`.
        network: SHA-256 of the weights file of the network that the head was trained on.
        record: further entries, such as how it was trained.
    """
    entries = {"kind": kind, "network": network, **record}
    fingerprint = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    return file_bytes(tensors, {**entries, "fingerprint": fingerprint})


def file_bytes(tensors: Mapping[str, Tensor], record: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file; the same tensors and record give the same bytes."""
    named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(named, {_ENTRY: json.dumps(record, sort_keys=True)})


def read_record(file: str | Path) -> dict[str, str]:
    """Return the record in a head's file; see `record_in`.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    if Path(file).suffix != ".safetensors":
        return {}
    try:
        with Path(file).open("rb") as content:
            start = content.read(LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if length > MAX_HEADER_BYTES:
                limit = MAX_HEADER_BYTES >> 20
                raise ValueError(f"its header is to have {length:,} bytes, the limit is {limit} MB")
            return record_in(start + content.read(length))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} is not a weights file: {error}") from error


def record_in(data: bytes) -> dict[str, str]:
    """Return the record that `file_bytes` wrote beside the tensors; empty for other files.

    Args:
        data: content of the file, or its first part.

    Raises:
        ValueError: it is not a safetensors file.
    """
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    try:
        entries = json.loads(data[LENGTH_BYTES:end]).get("__metadata__", {})
        record: object = json.loads(entries.get(_ENTRY, "{}"))
    except (AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"its header is not that of safetensors: {error}") from error
    if not isinstance(record, dict) or not all(isinstance(it, str) for it in record.values()):
        raise ValueError("its record is not that of a head")
    return record


def tensors_in(data: bytes) -> dict[str, Tensor]:
    """Return the tensors in the content of a safetensors file.

    Raises:
        ValueError: it is damaged, or its header is beyond the limits.
    """
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    check_header(data[LENGTH_BYTES:end])
    try:
        return load(data)
    except SafetensorError as error:
        raise ValueError(one_line(error)) from error


def check_trained_for(file: str | Path, kind: str, network_file: str) -> None:
    """Refuse a head of another kind or network; a file without a record passes.

    Args:
        file: the head's.
        kind: the kind of head that is needed.
        network_file: weights of the network that the head is to be used with.

    Raises:
        WeightsError: another kind of head, or one of another network.
    """
    record = read_record(file)
    if not record:
        return
    if not record.keys() >= {"kind", "network"}:
        raise WeightsError(f"{file} is not a head of ovseg: its record has no kind or network")
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


@dataclass(frozen=True)
class HeadKind:
    """One kind of head: where its weights are found, and which tensors it has.

    Attributes:
        name: as `ovseg train-heads` and the run's record call it.
        title: as a person says it.
        network: the network whose features the head takes: CLIP's trunk or the second network.
        tensors: shape of each tensor by its name in the authors' file. `C` is the network's width;
            another letter is any number, the same wherever it stands.
        option: dotted option that names the file, for messages.
        embedded: file for the embedded network.
        released: the authors' file, resolved where the option is empty.
        licence: of that.
        not_released: error message where the authors' file cannot be downloaded; empty: the usual
            message of a missing file.
    """

    name: str
    title: str
    network: Literal["clip", "vision"]
    tensors: Mapping[str, tuple[int | str, ...]]
    option: str
    embedded: Path
    released: str
    licence: str
    not_released: str = ""


def load_head(kind: HeadKind, file: str, backbones: Backbones) -> dict[str, Tensor]:
    """Load a head for one of the job's networks and record its file under the kind's name.

    Args:
        kind: which head.
        file: weights file (path or URL), in the authors' layout or that of `ovseg train-heads`;
            empty: the embedded head for the embedded network, else the authors'.
        backbones: supplies the network and resolves the file.

    Returns:
        float32 on the CPU, by the names of `kind.tensors`.

    Raises:
        WeightsError: a missing file, other tensors or shapes, values that are not finite, or
            the head of another network.
    """
    path = _located(kind, file, backbones)
    tensors = read_tensors(path)
    head = {name: _find(tensors, name, kind, path) for name in kind.tensors}
    check_finite_weights(head, path)
    if kind.network == "clip":
        width = backbones.clip.width
        network = f"CLIP {backbones.clip_config.model}"
    else:
        width = backbones.vision.dim
        network = f"network {backbones.vision_model}"
    sizes: dict[int | str, int] = {"C": width}
    for name, shape in kind.tensors.items():
        actual = tuple(head[name].shape)
        expected = tuple(sizes.get(size, size) for size in shape)
        fits = len(actual) == len(shape) and all(
            size == (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size))
            for size, wanted in zip(actual, expected, strict=True)
        )
        if not fits:
            raise WeightsError(
                f"the head {path} does not fit the {network}: {name} has the shape {actual}, "
                f"expected ({', '.join(map(str, expected))}); give the head of this network as "
                f"`{kind.option}`, or train one with `ovseg train-heads --head {kind.name}`"
            )
    check_trained_for(path, kind.name, backbones.files()[kind.network])
    backbones.note_file(kind.name, path)
    return head


def needed_head(kind: HeadKind, file: str, backbones: Backbones) -> NeededWeights:
    """Return what `load_head` loads a head from.

    Raises:
        WeightsError: no file is given, and that of the authors cannot be downloaded.
    """
    place = _place(kind, file, backbones)
    if place == kind.released and kind.not_released and not Path(place).is_file():
        raise WeightsError(kind.not_released)
    name = EMBEDDED if place == str(kind.embedded) else place
    licence = kind.licence if place == kind.released else ""
    return NeededWeights(kind.option, name, "file", title=kind.title, licence=licence)


def _place(kind: HeadKind, file: str, backbones: Backbones) -> str:
    """Return the path or URL of a head."""
    if file:
        return file
    if kind.network == "clip":
        is_embedded = backbones.clip_config.model == EMBEDDED
    else:
        is_embedded = backbones.vision_is_embedded
    return str(kind.embedded) if is_embedded else kind.released


def _located(kind: HeadKind, file: str, backbones: Backbones) -> str:
    place = _place(kind, file, backbones)
    if place == str(kind.embedded):
        return place
    if file:
        return backbones.locate(file)
    try:
        path = backbones.locate(place)
    except (WeightsError, StorageError) as error:
        raise type(error)(f"{error}: --set {kind.option}=FILE") from None
    if kind.not_released and not Path(path).is_file():
        raise WeightsError(kind.not_released)
    return path


def _find(tensors: Mapping[str, Tensor], name: str, kind: HeadKind, path: str) -> Tensor:
    """Return the tensor of a name, which may have a prefix, or lack one that says nothing."""
    last = name.rpartition(".")[2]
    # FOUND's `decoder.weight` may be just `weight`; with two layers that would be ambiguous.
    is_only = sum(other.rpartition(".")[2] == last for other in kind.tensors) == 1
    for key, tensor in tensors.items():
        if key == name or key.endswith(f".{name}") or (is_only and key == last):
            return tensor.float().clone()  # not a view of the file, which may change
    raise WeightsError(
        f"{path} is not a head of the kind {kind.name!r}: it has no {name}, only "
        f"{', '.join(sorted(tensors)[:4])}"
    )
