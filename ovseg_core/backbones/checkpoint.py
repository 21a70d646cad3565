"""Weight files of any of the two kinds we accept, as named tensors."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from schemas.errors import WeightsError

ADVICE = (
    "use `embedded` for the models that come with the package (--set clip.model=embedded), "
    "or `local-dir:FOLDER` for a folder that you have"
)
"""What to do where nothing can be fetched; ends every message about missing weights."""


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
"""What the model libraries raise for a folder, file or network that is not what it should be."""

_SHOWN = 200


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return what a `.safetensors` file or a PyTorch checkpoint holds, on the CPU.

    Nothing in the file is executed.

    Raises:
        WeightsError: the file is missing or holds something else.
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
        WeightsError: the file is missing or holds something else.
    """
    return dict(_flatten(read_checkpoint(path)))


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line, cut where it gets long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _flatten(value: object, prefix: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(prefix, value)]
    if not isinstance(value, dict):
        return []
    dotted = f"{prefix}." if prefix else ""
    return [pair for key, inner in value.items() for pair in _flatten(inner, f"{dotted}{key}")]
