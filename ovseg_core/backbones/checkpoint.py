"""Reading weights files (safetensors or PyTorch checkpoints), and looking up the hub."""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ovseg_core.backbones.file_formats.limits import MAX_TENSORS, check_names
from ovseg_core.backbones.file_formats.safetensors_header import read_header
from ovseg_core.backbones.file_formats.torch_file import read_torch_file
from schemas.errors import UnreachableHubError, WeightsError

T = TypeVar("T")

ADVICE = "see docs/weights.md#without-a-network"
"""Ends every message about weights that are missing or cannot be downloaded."""

LOAD_FAILURES = (
    ArithmeticError,
    AssertionError,
    OSError,
    ImportError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    SafetensorError,
)
"""Exceptions of the model libraries for a folder, file or network that is not as it should be."""

_RANDOM = {
    *("normal_", "uniform_", "erfinv_", "trunc_normal_", "xavier_normal_", "xavier_uniform_"),
    *("kaiming_normal_", "kaiming_uniform_"),
}
_ONLY_VALUES = _RANDOM | {"add_", "clamp_", "copy_", "fill_", "mul_", "triu_", "zero_"}
_SCALES = {"mul", "__mul__", "__rmul__"}
"""Functions of torch, by name, that change no shape."""

_FETCHES_NOTHING = ContextVar("_FETCHES_NOTHING", default=False)
_MAX_MESSAGE_CHARS = 200
_MAX_NAMES = 3
_MAX_VALUES = 10 * MAX_TENSORS
"""Tensors and dictionaries of a checkpoint, counted as often as they are named."""
_START_BYTES = 16
_CONNECT_S = 10.0
_NETWORKS = ("state_dict", "model", "teacher", "model_state_dict", "model_state", "module", "net")
"""Keys under which a training's checkpoint holds the network, the first of them that is there."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "teacher.", "backbone.", "state_dict.", "net.")
"""What wrappers put before the names of tensors; no network of ours has such a part itself."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a safetensors file or a PyTorch checkpoint, on the CPU.

    The content says what the file is, not its name. No code in the file is executed.

    Raises:
        WeightsError: the file is missing, empty, cut off, or is not a weights file.
    """
    return _readable(Path(path), _read)


def check_weights_file(path: str | Path) -> None:
    """Check that a file is one of weights by its first bytes, without loading it.

    Raises:
        WeightsError: the file is missing, empty, or is not a weights file.
    """
    _readable(Path(path), _start_of)


def _readable(path: Path, read: Callable[[Path], T]) -> T:
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}: give a path or URL that exists")
    try:
        return read(path)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a weights file, or is cut off: fetch it again ({one_line(error)})"
        ) from error
    except LOAD_FAILURES as error:
        raise WeightsError(f"{path} is not a weights file: {one_line(error)}") from error


def _start_of(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        ValueError: they are those of no weights file.
    """
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if not start:
        raise ValueError("it is empty (0 bytes): fetch it again")
    if start.startswith(b"version https://"):
        raise ValueError("it is a pointer of Git LFS: `git lfs pull` fetches the file itself")
    if _is_safetensors(path, start):
        read_header(path)
    elif not start.startswith((b"PK", b"\x80")):
        raise ValueError(
            "expected safetensors or what torch.save writes (.safetensors, .pt, .bin): fetch it "
            "again, or give another file"
        )
    return start


def _is_safetensors(path: Path, start: bytes) -> bool:
    return start[8:9] == b"{" or path.suffix == ".safetensors"


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file.

    Raises:
        ValueError: it is no weights file, or holds no tensors.
    """
    start = _start_of(path)
    if _is_safetensors(path, start):
        return load_file(path)
    is_archive = start.startswith(b"PK")
    content = read_torch_file(path, is_archive=is_archive)
    tensors = _flatten(content)
    check_names([name for name, _ in tensors])
    if not tensors:
        raise ValueError("it holds no tensors, and no code of weights files is run here")
    return content


def state_dict_in(content: dict[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's weights under the names that the network itself gives them.

    The network lies under `state_dict`, `model` or `teacher` (DINO) of a training's checkpoint, and
    a wrapper leaves a prefix on every name: `module.` (several GPUs), `model.` (Lightning),
    `backbone.` (DINO; its projection head is left out), `_orig_mod.` (torch.compile).

    Args:
        content: as `read_checkpoint` returns it.
    """
    while not any(isinstance(value, Tensor) for value in content.values()):
        inner = [content[key] for key in _NETWORKS if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = inner[0]
    tensors = dict(_flatten(content))
    while prefix := next((it for it in _PREFIXES if any(k.startswith(it) for k in tensors)), ""):
        tensors = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
    return tensors


def load_fitting(
    model: torch.nn.Module, tensors: Mapping[str, Tensor], *, extra: bool = False
) -> None:
    """Copy weights that fit a network exactly into it; see `check_fit`."""
    check_fit(model, tensors, extra=extra)
    model.load_state_dict(dict(tensors), strict=not extra)


def take_fitting(
    model: torch.nn.Module, tensors: Mapping[str, Tensor], *, extra: bool = False
) -> None:
    """Make weights that fit a frozen network exactly its own, without a copy; see `check_fit`.

    Those of a safetensors file stay mapped from it, so the workers of a machine share them.
    """
    check_fit(model, tensors, extra=extra)
    own = model.state_dict()
    taken = {
        name: value.to(own[name].dtype).contiguous()
        for name, value in tensors.items()
        if name in own
    }
    model.load_state_dict(taken, assign=True)


class WithoutRandomWeights(TorchFunctionMode):
    """Networks that are built inside have no defined weights: they are loaded afterwards.

    Random numbers take longer than the loading. On the device `meta`, where there are no values at
    all, torch would import its compiler, which takes seconds, to compute none.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave the memory of new weights as it is."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "randn":
            return torch.empty(*args, **kwargs)
        tensor = args[0] if args else kwargs.get("tensor")
        if isinstance(tensor, Tensor):
            if name in (_ONLY_VALUES if tensor.is_meta else _RANDOM):
                return tensor
            if tensor.is_meta and name in _SCALES and isinstance(args[1], int | float):
                return tensor
        return func(*args, **kwargs)


def check_fit(
    model: torch.nn.Module, tensors: Mapping[str, Tensor], *, extra: bool = False
) -> None:
    """Check that weights fit a network exactly; it may be on the device `meta`.

    Args:
        model: the network.
        tensors: by the network's names.
        extra: tensors that the network does not have are left out, such as a classifier.

    Raises:
        ValueError: it names the tensors of another shape with both shapes, else those that are
            missing or too many.
    """
    own = model.state_dict()
    shapes = [
        f"{name} has the shape {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    missing = [name for name in own if name not in tensors]
    unknown = [] if extra else [name for name in tensors if name not in own]
    for problems, sentence in (
        (missing, "{} tensors are missing: {}"),
        (shapes, "{} tensors have another shape: {}"),
        (unknown, "{} tensors are unknown: {}"),
    ):
        if problems:
            more = ", ..." if len(problems) > _MAX_NAMES else ""
            names = ", ".join(problems[:_MAX_NAMES])
            raise ValueError(sentence.format(len(problems), names) + more)


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


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Take files of the hub from this machine's cache only, in this thread, until the end."""
    token = _FETCHES_NOTHING.set(True)
    try:
        yield
    finally:
        _FETCHES_NOTHING.reset(token)


def timm_file(name: str, setting: str, advice: str = ADVICE) -> str:
    """Return the local path of timm's own weights of an architecture, fetched if need be.

    Args:
        name: timm's, with or without the tag of the weights.
        setting: that names a copy in `FOLDER`, for the message.
        advice: ends the message where there are none.

    Raises:
        WeightsError: timm has none, or they cannot be downloaded.
    """
    repository, file, _ = timm_repository(name, advice)
    try:
        return hub_file(repository, file)
    except LOAD_FAILURES as error:
        copy = HubCopy(repository, ("config.json", file), setting)
        raise not_downloaded(f"the weights of {name}", error, copy) from None


def timm_repository(name: str, advice: str = ADVICE) -> tuple[str, str, str]:
    """Return the repository of timm's own weights of an architecture, their file and licence.

    Args:
        name: timm's, with or without the tag of the weights.
        advice: ends the message where there are none.

    Raises:
        WeightsError: timm has none.
    """
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        raise WeightsError(f"timm has no weights for {name}; {advice}")
    licence = (config.license or "").upper().replace("APACHE", "Apache")
    return config.hf_hub_id, config.hf_hub_filename or "model.safetensors", licence


def hub_file(repo_id: str, *names: str) -> str:
    """Return the local path of a repository's file on the Hugging Face hub, fetched if need be.

    `huggingface_hub` retries each file five times before it reports that the hub cannot be reached
    (23 s, and 59 s in sum for open_clip's files), so that is found out first. Without the hub the
    cached file is taken.

    Args:
        repo_id: such as `timm/vit_small_patch8_224.dino`.
        names: of the file, the first of them that the repository has.

    Raises:
        OSError: it has no such file; ConnectionError: the hub cannot be reached and nothing is
            cached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        check_hub()
    except OSError:  # also where nothing may be fetched
        for name in names:
            if cached := cached_hub_file(repo_id, name):
                return cached
        raise
    for name in names[:-1]:
        try:
            return hf_hub_download(repo_id, name)
        except EntryNotFoundError:  # with HF_HUB_OFFLINE, also: not in the cache
            continue
    return hf_hub_download(repo_id, names[-1])


def cached_hub_file(repo_id: str, name: str) -> str:
    """Return the local path of a repository's file; empty: it is not in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo_id, name)
    return path if isinstance(path, str) else ""


def check_hub() -> None:
    """Raise OSError at once if nothing may be fetched, or the hub does not answer at its address.

    Behind a proxy the hub's name need not resolve on this machine, so nothing is checked there.
    """
    from huggingface_hub import constants

    if _FETCHES_NOTHING.get():
        raise OSError("it is not in the cache of this machine, and nothing is fetched here")
    if constants.HF_HUB_OFFLINE:
        raise OSError("it is not in the cache of this machine, and HF_HUB_OFFLINE is set")
    if getproxies():
        return
    address = urlsplit(constants.ENDPOINT)
    host = address.hostname or ""
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        where = f"{host}:{port}" if address.port else host
        why = error.strerror or error
        raise ConnectionError(f"{where} cannot be reached from here: {why}") from None


@dataclass(frozen=True)
class HubCopy:
    """How a repository of the hub is copied by hand, for messages.

    Attributes:
        repository: such as `timm/vit_small_patch8_224.dino`.
        names: of its files that are enough; empty: all are fetched.
        setting: that names the copy, such as `vision.model=local-dir:FOLDER`.
    """

    repository: str
    names: tuple[str, ...]
    setting: str

    @property
    def advice(self) -> str:
        """What to type where there is a network, and here."""
        what = " ".join([self.repository, *self.names])
        return (
            f"on a computer with a network: `hf download {what} --local-dir FOLDER`, copy FOLDER "
            f"here and --set {self.setting} ({ADVICE})"
        )


def not_downloaded(what: str, error: Exception, copy: HubCopy) -> WeightsError:
    """Return the error of weights that did not come; one of an outage if the hub is down.

    Args:
        what: the weights.
        error: why they did not come.
        copy: how they are brought by hand.
    """
    from huggingface_hub.errors import GatedRepoError

    kind = UnreachableHubError if isinstance(error, ConnectionError) else WeightsError
    if isinstance(error, GatedRepoError):
        why = _why_gated(error, copy.repository)
        return WeightsError(f"{what} cannot be downloaded: it is gated, {why}; {copy.advice}")
    return kind(f"{what} cannot be downloaded ({one_line(error)}); {copy.advice}")


def _why_gated(error: Any, repository: str) -> str:
    """Return in words why a gated repository is closed.

    Args:
        error: huggingface_hub's, with the answer of the hub.
        repository: of the hub.
    """
    page = f"https://huggingface.co/{repository}"
    if error.response.status_code == HTTPStatus.UNAUTHORIZED:
        return (
            f"and this machine has no valid token: ask for access at {page}, then `hf auth login` "
            "here or set HF_TOKEN"
        )
    return (
        f"and the account of this machine's token has no access: at {page} the licence is not "
        "accepted, or the request is pending or was refused"
    )


def _flatten(content: object) -> list[tuple[str, Tensor]]:
    """Return the tensors in nested dictionaries with dotted names.

    Raises:
        ValueError: a dictionary is named so often that they are more than a network has.
    """
    found: list[tuple[str, Tensor]] = []
    to_do: list[tuple[str, object]] = [("", content)]
    for _ in range(_MAX_VALUES):
        if not to_do:
            return found
        name, value = to_do.pop()
        if isinstance(value, Tensor):
            found.append((name, value))
        elif isinstance(value, dict):
            dotted = f"{name}." if name else ""
            inner = [(f"{dotted}{key}", one) for key, one in value.items()]
            to_do += [pair for pair in reversed(inner) if isinstance(pair[1], Tensor | dict)]
    raise ValueError(f"it holds more than {MAX_TENSORS} tensors")
