"""The text rows of a job's vocabulary, embedded once on each machine and shared by its workers.

On a CPU a vocabulary of 171 labels with CLIP's 80 templates takes minutes. The first worker keeps
its rows in a file of the cache folder; the others, and those that replace one, wait for it and read
it. Where there is no such folder each worker embeds for itself, with the same result.
"""

import logging
import secrets
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.segmenter import TextMatrix
from pipeline.storage.waiting import waiting
from pipeline.storage.weights import cache_folder

logger = logging.getLogger(__name__)

_KIND = "kind"
"""Entry of a file that names the class of its rows; the others are the fields of that class."""
_KEPT_S = 86_400.0
"""Files of older jobs are deleted; a worker that still looks for one embeds for itself."""


def shared_text(embed: Callable[[], TextMatrix], job: str, device: str) -> TextMatrix:
    """Return a vocabulary's rows, from the worker of this job that was first on this machine.

    Args:
        embed: makes them; a subclass of `TextMatrix` stays one, if its fields are tensors and
            integers.
        job: a name that no other job has; empty: its worker is the only one.
        device: where the rows are to be.
    """
    if not job:
        return embed()
    text: TextMatrix | None = None
    try:
        file = _folder() / f"{job}.npz"
        file.parent.mkdir(0o700, parents=True, exist_ok=True)
        with ExitStack() as held:
            with waiting("another worker, which embeds the vocabulary"):
                held.enter_context(FileLock(f"{file}.lock"))
            if (kept := _read(file, device)) is not None:
                return kept
            text = embed()
            _write(file, text)
    except OSError as error:
        logger.info("the text rows are not shared with other workers: %s", error)
    return text or embed()


def forget_text(job: str) -> None:
    """Delete the file of a job that has ended, on this machine."""
    with suppress(OSError):
        for file in _folder().glob(f"{job}.*"):
            file.unlink()


def _folder() -> Path:
    try:
        return cache_folder() / "text"
    except RuntimeError as error:
        raise FileNotFoundError("there is no home folder, and OVSEG_CACHE is not set") from error


def _read(file: Path, device: str) -> TextMatrix | None:
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as kept:
            kind = _kinds()[str(kept[_KIND])]
            values = {one.name: _value(kept[one.name], device) for one in fields(kind)}
            return kind(**values)
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _value(kept: NDArray[Any], device: str) -> Any:
    return torch.from_numpy(kept).to(device) if kept.ndim else int(kept)


def _kinds() -> dict[str, type[TextMatrix]]:
    """Return `TextMatrix` and its subclasses, as this worker's method has defined them, by name."""
    found: list[type[TextMatrix]] = [TextMatrix]
    for kind in found:  # grows
        found += kind.__subclasses__()
    return {f"{kind.__module__}.{kind.__qualname__}": kind for kind in found}


def _write(file: Path, text: TextMatrix) -> None:
    for other in file.parent.iterdir():
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > _KEPT_S:
                other.unlink()
    temporary = file.with_name(f"{file.stem}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as content:
            values = {one.name: getattr(text, one.name) for one in fields(text)}
            arrays: dict[str, Any] = {
                name: value.cpu().numpy() if isinstance(value, Tensor) else np.array(value)
                for name, value in values.items()
            }
            arrays[_KIND] = np.array(f"{type(text).__module__}.{type(text).__qualname__}")
            np.savez(content, **arrays)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
