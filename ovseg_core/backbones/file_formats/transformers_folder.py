"""Load a network by transformers, from a folder in its format or from the hub.

transformers takes seconds to import and is an extra (`sam`), so it is imported on use.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovseg_core.backbones.checkpoint import (
    LOAD_FAILURES,
    HubCopy,
    WithoutRandomWeights,
    check_finite_weights,
    hub_file,
    not_downloaded,
    one_line,
)
from ovseg_core.backbones.load_clip import HF_HUB, LOCAL_DIR
from schemas.config import EMBEDDED
from schemas.errors import ConfigError, WeightsError

WEIGHTS = "model.safetensors"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_MAX_VALUES_PER_BYTE = 4
_MAJOR = 5


@dataclass(frozen=True)
class HubWeights:
    """What is known of a repository of the hub.

    Attributes:
        size_bytes: of its weights file; None: not known.
        licence: of the weights.
        gate: what it takes to be let in; empty: nothing.
    """

    size_bytes: int | None
    licence: str
    gate: str = ""


@dataclass(frozen=True)
class NetworkFamily:
    """The networks that can do one thing.

    Attributes:
        title: what they are, for messages.
        example: a repository of the hub that has one, for messages.
        classes: by the `model_type` of a folder's config.json, the names of the network's class and
            of that of its image processor.
        embedded: folder of the one in the package; None: there is none.
        weights: of the example.
    """

    title: str
    example: str
    classes: Mapping[str, tuple[str, str]]
    embedded: Path | None = None
    weights: HubWeights = HubWeights(None, "")


@dataclass(frozen=True)
class LoadedNetwork:
    """A network of transformers with its image processor.

    Attributes:
        model: in evaluation mode, float32, on its device.
        processor: its image processor.
        file: the local weights file.
        repository: of the hub that it came from; empty: from a folder.
    """

    model: Any
    processor: Any
    file: str
    repository: str = ""


def load_network(
    name: str, device: torch.device, option: str, family: NetworkFamily
) -> LoadedNetwork:
    """Load a network.

    Args:
        name: `local-dir:FOLDER`, `hf-hub:ORG/REPO` or, if the family has one, `embedded`.
        device: where it runs.
        option: dotted option that gave the name, for messages.
        family: what it must be.

    Raises:
        ConfigError: transformers is missing, or another major version.
        WeightsError: a name of another form, weights that cannot be downloaded, a folder without
            such a network, or weights that are not finite.
    """
    check_transformers_version(family.title)
    repository = ""
    if name == EMBEDDED and family.embedded is not None:
        folder = family.embedded
    elif name.startswith(LOCAL_DIR):
        folder = Path(name.removeprefix(LOCAL_DIR)).expanduser()
    elif name.startswith(HF_HUB):
        repository = name.removeprefix(HF_HUB)
        folder = _fetched(repository, option)
    else:
        example = f"hf-hub:ORG/REPO (such as hf-hub:{family.example})"
        known = f"{example} or local-dir:FOLDER"
        if family.embedded is not None:
            known = f"{example}, local-dir:FOLDER or `embedded`"
        raise WeightsError(f"{option}: expected {known}, got {name!r}")
    try:
        with _without_progress_bars():
            model, processor = _load_folder(folder, option, family)
    except LOAD_FAILURES as error:
        raise WeightsError(
            f"{option}: the network in {folder} cannot be loaded: {one_line(error)}"
        ) from error
    file = str(folder / WEIGHTS)
    check_finite_weights(model.state_dict(), file)
    model.eval().requires_grad_(False).to(device)
    return LoadedNetwork(model, processor, file, repository)


def check_transformers_version(title: str) -> None:
    """Check that transformers can be used.

    Args:
        title: of the network that needs it, for the message.

    Raises:
        ConfigError: it is missing, or of another major version.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f'{title} needs transformers: pip install "ovseg[sam]"') from error
    if int(transformers.__version__.partition(".")[0]) != _MAJOR:
        raise ConfigError(
            f"{title} needs transformers {_MAJOR}, this is {transformers.__version__}: "
            'pip install "ovseg[sam]"'
        )


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _fetched(repository: str, option: str) -> Path:
    """Return the folder with a repository's configuration and weights, fetched if need be."""
    try:
        hub_file(repository, "config.json")
        hub_file(repository, *_PROCESSORS)
        return Path(hub_file(repository, WEIGHTS)).parent
    except LOAD_FAILURES as error:
        what = f"{option}: the network {repository}"
        raise not_downloaded(
            what, error, HubCopy(repository, (), f"{option}=local-dir:FOLDER")
        ) from None


def _load_folder(folder: Path, option: str, family: NetworkFamily) -> tuple[Any, Any]:
    import transformers

    file, config_file = folder / WEIGHTS, folder / "config.json"
    if not config_file.is_file() or not file.is_file():
        copy = HubCopy(family.example, (), f"{option}=local-dir:FOLDER")
        raise WeightsError(
            f"{option}: {folder} is no folder of transformers: expected config.json, {WEIGHTS} "
            f"and {_PROCESSORS[0]}; {copy.advice}"
        )
    settings = json.loads(config_file.read_text(encoding="utf-8"))
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if not isinstance(kind, str) or kind not in family.classes:
        raise WeightsError(
            f"{option}: the network in {folder} is of the kind {kind!r}, expected {family.title} "
            f"({', '.join(family.classes)})"
        )
    model_class, processor_class = (getattr(transformers, name) for name in family.classes[kind])
    config = model_class.config_class.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"), WithoutRandomWeights():  # without memory, to compare sizes first
        num_values = sum(parameter.numel() for parameter in model_class(config).parameters())
    if num_values > _MAX_VALUES_PER_BYTE * file.stat().st_size:
        raise ValueError(
            f"config.json describes {num_values:,} weights, {file.name} has "
            f"{file.stat().st_size:,} bytes"
        )
    model, report = model_class.from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{len(missing)} of its tensors are missing, such as {missing[0]}")
    processor = processor_class.from_pretrained(folder, local_files_only=True)
    return model, processor
