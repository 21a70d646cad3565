"""Reading weights files (safetensors or PyTorch checkpoints), and looking up the hub."""

import pickle
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from schemas.errors import WeightsError

ADVICE = (
    "use `embedded` for the models that come with the package (--set clip.model=embedded), "
    "or `local-dir:FOLDER` for a folder that you have"
)
"""Ends every message about weights that are missing or cannot be downloaded."""

LOAD_FAILURES = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
    SafetensorError,
)
"""Exceptions of the model libraries for a folder, file or network that is not as it should be."""

_MAX_MESSAGE_CHARS = 200


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a `.safetensors` file or a PyTorch checkpoint, on the CPU.

    No code in the file is executed.

    Raises:
        WeightsError: the file is missing or is not a weights file.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}; {ADVICE}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*LOAD_FAILURES, EOFError) as error:
        raise WeightsError(f"{path} is not a weights file: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a weights file: it holds a {type(content).__name__}")
    return content


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return a checkpoint's tensors; nested dictionaries become dotted names.

    Raises:
        WeightsError: the file is missing or is not a weights file.
    """
    return dict(_flatten(read_checkpoint(path)))


def check_finite_weights(tensors: Mapping[str, Tensor], file: str | Path) -> None:
    """Check that weights hold no NaN and no infinity, before the first image is read.

    Args:
        tensors: the weights in use, by name.
        file: where they come from, for the message.

    Raises:
        WeightsError: it names the file and the first tensors at fault.
    """
    floats = {name: value for name, value in tensors.items() if value.is_floating_point()}
    wrong = [name for name, value in floats.items() if not value.isfinite().all()]
    if wrong:
        shown = f"{', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}"
        raise WeightsError(
            f"the weights {file} are not finite: {len(wrong)} of {len(tensors)} tensors hold NaN "
            f"or infinity ({shown}); the training diverged or the file is damaged: give others"
        )


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, shortened to 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_MESSAGE_CHARS else f"{text[:_MAX_MESSAGE_CHARS]}..."


def check_reachable(repo_id: str) -> None:
    """Raise at once if a repository of the Hugging Face hub is not cached and cannot be downloaded.

    `huggingface_hub` retries each file five times (23 s) before it reports that there is no
    network, and open_clip tries two files. Behind a proxy the hub's name need not resolve on this
    machine, so nothing is checked there.

    Args:
        repo_id: such as `timm/vit_small_patch8_224.dino`.

    Raises:
        OSError: the hub's host name does not resolve and nothing of the repository is cached.
    """
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    if cached.is_dir() or getproxies():
        return
    host = urlsplit(constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise OSError(f"{host} cannot be reached from here") from error


def _flatten(value: object, prefix: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(prefix, value)]
    if not isinstance(value, dict):
        return []
    dotted = f"{prefix}." if prefix else ""
    return [pair for key, inner in value.items() for pair in _flatten(inner, f"{dotted}{key}")]
