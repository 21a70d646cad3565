"""Load the CLIP that the job file names, as an open_clip model with its tokenizer.

open_clip takes seconds to import and is not needed to check a job, so it is imported on use.
"""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovseg_core.backbones.checkpoint import (
    ADVICE,
    LOAD_FAILURES,
    HubCopy,
    WithoutRandomWeights,
    check_finite_weights,
    check_fit,
    hub_file,
    not_downloaded,
    one_line,
    read_checkpoint,
    state_dict_in,
    take_fitting,
)
from ovseg_core.backbones.clip_architecture import CONFIG, check_readable
from ovseg_core.backbones.text.tokenizer import Tokenizer, load_tokenizer
from ovseg_core.embedded import CLIP_FOLDER
from schemas.base import did_you_mean
from schemas.config import EMBEDDED, ClipConfig
from schemas.errors import WeightsError

logger = logging.getLogger(__name__)

_MAX_CONFIG_BYTES = 1_000_000
_MAX_NORMALISATION = 1000.0
"""Of the mean and the deviation of pixels in [0, 1]; published ones are below 1."""

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
"""Prefix of a repository of the Hugging Face hub, as open_clip spells it."""

_PREFERRED = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
"""Names of weights files in open_clip's order; transformers' `model.safetensors` may lie beside."""
REPOSITORY_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Weights files of a repository in open_clip's format, the first of them that it has."""
_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
_OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}
"""Beside the weights in OpenAI's own files, and nowhere else."""


@dataclass(frozen=True)
class LoadedClip:
    """An open_clip model with its tokenizer and normalisation.

    Attributes:
        model: in evaluation mode, without gradients, on its device.
        tokenizer: the model's own.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        file: the local weights file.
    """

    model: Any
    tokenizer: Tokenizer
    mean: Sequence[float]
    std: Sequence[float]
    file: str

    @property
    def activation(self) -> str:
        """Name of the activation in force: `GELU` or `QuickGELU`."""
        names = (type(module).__name__ for module in self.model.visual.modules())
        return next((name for name in names if name.endswith("GELU")), "")


def load_clip(
    config: ClipConfig, device: torch.device, resolve: Callable[[str], str]
) -> LoadedClip:
    """Load the CLIP that the job names.

    Args:
        config: architecture and weights.
        device: where the model runs.
        resolve: returns the local path of a weights file (path or URL).

    Raises:
        WeightsError: an unknown name, weights that cannot be downloaded, a folder without a model,
            weights that are not finite.
    """
    if config.model == EMBEDDED:
        loaded = _load_folder(CLIP_FOLDER, config)
    elif config.model.startswith(LOCAL_DIR):
        loaded = _load_folder(Path(config.model.removeprefix(LOCAL_DIR)).expanduser(), config)
    elif config.model.startswith(HF_HUB):
        loaded = _load_repository(config)
    else:
        loaded = _load_named(config, resolve)
    check_finite_weights(loaded.model.state_dict(), loaded.file)
    if config.layer_norm_eps is not None:
        # open_clip has no argument for it; nothing else refers to the model yet.
        for module in loaded.model.visual.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = config.layer_norm_eps
    loaded.model.eval().requires_grad_(False).to(device)
    return loaded


def _load_repository(config: ClipConfig) -> LoadedClip:
    """Load `hf-hub:ORG/REPO`, of which only what is needed is fetched."""
    repository = config.model.removeprefix(HF_HUB)
    try:
        file = Path(hub_file(repository, CONFIG))
        architecture = _read_config(file)["model_cfg"]
        check_readable(architecture, config.model)  # before a useless download
        hub_file(repository, *REPOSITORY_FILES)
    except LOAD_FAILURES as error:
        copy = HubCopy(repository, (CONFIG, REPOSITORY_FILES[0]), "clip.model=local-dir:FOLDER")
        raise not_downloaded(f"the CLIP {config.model}", error, copy) from None
    return _load_folder(file.parent, config, is_local=False)


def _load_folder(folder: Path, config: ClipConfig, *, is_local: bool = True) -> LoadedClip:
    """Load `local-dir:FOLDER`, or a repository of the hub that has been fetched to a folder.

    The repository's tokenizer may be that of another repository, as open_clip has it.
    """
    import open_clip

    file = _weights_in(folder)
    if not (folder / CONFIG).is_file() or file is None:
        raise WeightsError(
            f"{folder} is not a CLIP folder: expected {CONFIG} and "
            f"open_clip_model.safetensors; {ADVICE}"
        )
    try:
        content = _read_config(folder / CONFIG)
        architecture = content["model_cfg"]
        check_readable(architecture, f"the CLIP in {folder}")
        # A folder says so, or has GELU: open_clip's rule.
        stated = architecture.get("quick_gelu")
        network = _network(config, architecture, str(file), stated, unstated_is_known=True)
        has_own = is_local or not architecture["text_cfg"].get("hf_tokenizer_name")
        tokenizer = load_tokenizer(architecture["text_cfg"], folder if has_own else None)
        mean = _per_channel(content, "mean") or open_clip.OPENAI_DATASET_MEAN
        std = _per_channel(content, "std") or open_clip.OPENAI_DATASET_STD
    except LOAD_FAILURES as error:
        raise WeightsError(f"the CLIP in {folder} cannot be loaded: {one_line(error)}") from error
    return LoadedClip(network, tokenizer, mean, std, str(file))


def _read_config(file: Path) -> dict[str, Any]:
    """Return a CLIP's configuration.

    Raises:
        ValueError: it is not one.
    """
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"{CONFIG} has more than {_MAX_CONFIG_BYTES:,} bytes")
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
        raise ValueError(f"{CONFIG} has no model_cfg")
    return content


def _per_channel(content: dict[str, Any], key: str) -> list[float] | None:
    """Return `mean` or `std` of a CLIP's configuration, if it is there."""
    values = (content.get("preprocess_cfg") or {}).get(key)
    if not values:
        return None
    numbers = [float(value) for value in values]
    lowest = -_MAX_NORMALISATION if key == "mean" else 1 / _MAX_NORMALISATION
    if len(numbers) != 3 or not all(lowest <= it <= _MAX_NORMALISATION for it in numbers):
        raise ValueError(f"{CONFIG}: {key} is {numbers}, expected three numbers for pixels 0 to 1")
    return numbers


def _weights_in(folder: Path) -> Path | None:
    """Return the weights file of a folder, in open_clip's order; None: there is none."""
    files = [file for ending in _ENDINGS for file in sorted(folder.glob(f"*{ending}"))]
    names = [file.name for file in files]
    preferred = [folder / name for name in _PREFERRED if name in names]
    return next(iter([*preferred, *files]), None)


def _load_named(config: ClipConfig, resolve: Callable[[str], str]) -> LoadedClip:
    import open_clip

    architecture, tag = named_clip(config)
    file = _fetch_tag(config, tag) if tag else _resolve_file(config, resolve)
    # A tag says which activation the weights were trained with (OpenAI's need QuickGELU, even where
    # the architecture's name does not say so; docs/methods.md 0.1).
    stated = bool(tag.get("quick_gelu")) if tag else None
    if architecture.get("quick_gelu"):
        stated = True
    try:
        model = _network(config, architecture, file, stated)
        tokenizer = load_tokenizer(architecture["text_cfg"], None)
    except LOAD_FAILURES as error:
        message = f"clip: {file} does not fit {config.model}: {one_line(error)}"
        raise WeightsError(message) from error
    mean = tag.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = tag.get("std") or open_clip.OPENAI_DATASET_STD
    return LoadedClip(model, tokenizer, mean, std, file)


def named_clip(config: ClipConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return open_clip's architecture of a name, and what it knows of the weights' tag.

    Args:
        config: names an architecture of open_clip; its weights are a tag or a file.

    Returns:
        `model_cfg`, and the tag's entry, which is empty where the weights are a file.

    Raises:
        WeightsError: open_clip has no such architecture or tag, or the CLIP cannot be read.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    known = open_clip.list_models()
    if config.model not in known:
        raise WeightsError(
            f"clip.model: open_clip has no model {config.model!r}. "
            f"{did_you_mean(config.model, [*known, EMBEDDED])}"
        )
    architecture: Any = open_clip.get_model_config(config.model)
    check_readable(architecture, f"clip.model: {config.model}")  # before a useless download
    tag = get_pretrained_cfg(config.model, config.pretrained)
    if tag or "/" in config.pretrained or "." in config.pretrained:
        return architecture, tag
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    if not config.pretrained:
        raise WeightsError(
            f"clip.pretrained: give the weights of {config.model}: {', '.join(tags)}, or a file"
        )
    raise WeightsError(
        f"clip.pretrained: {config.model} has no weights {config.pretrained!r}. "
        f"{did_you_mean(config.pretrained, tags)}"
    )


def num_values_of_clip(architecture: dict[str, Any]) -> int | None:
    """Return how many numbers an architecture of open_clip has; None: transformers has its text."""
    import open_clip

    fields = deepcopy(architecture)
    if fields["text_cfg"].get("hf_model_name"):
        return None
    kind = open_clip.CustomTextCLIP if fields.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"), WithoutRandomWeights():
        return sum(parameter.numel() for parameter in kind(**fields).parameters())


def _network(
    config: ClipConfig,
    architecture: dict[str, Any],
    file: str,
    stated: bool | None,
    *,
    unstated_is_known: bool = False,
) -> Any:
    """Return an open_clip model with the weights of a file and the activation that they need.

    Args:
        config: its `quick_gelu` decides, if it is given.
        architecture: `model_cfg` of open_clip.
        file: the weights.
        stated: whether the tag, the name or the folder says QuickGELU; None: nothing does.
        unstated_is_known: weights of which nothing is stated have GELU for sure.

    Raises:
        WeightsError: the file cannot be read.
        ValueError: the weights do not fit the architecture.
    """
    import open_clip
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    tensors = state_dict_in(read_checkpoint(file))
    is_openai = tensors.keys() >= _OPENAI_KEYS
    quick_gelu = config.quick_gelu
    if quick_gelu is None and stated is None and is_openai:
        quick_gelu = True
        logger.warning("%s is OpenAI's own file: taken with QuickGELU, as it was trained", file)
    elif quick_gelu is None:
        quick_gelu = bool(stated)
        if stated is None and not unstated_is_known:
            logger.warning(
                "%s does not say with which activation it was trained: taken with GELU; OpenAI's, "
                "DFN's and MetaCLIP's need `--set clip.quick_gelu=true` (false: this is not said)",
                file,
            )
    fields = {**deepcopy(architecture), "quick_gelu": quick_gelu}
    kind = open_clip.CustomTextCLIP if fields.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"), WithoutRandomWeights():  # without memory, to compare sizes first
        model: Any = kind(**deepcopy(fields))
    tensors = {
        key: value.float() if value.is_floating_point() else value
        for key, value in tensors.items()
        if key not in _OPENAI_KEYS and not key.endswith("embeddings.position_ids")
    }
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = convert_to_custom_text_state_dict(tensors)
    for name in ("logit_scale", "logit_bias"):
        if name in tensors and getattr(model, name, None) is not None:
            tensors[name] = tensors[name].reshape(getattr(model, name).shape)
    with suppress(AssertionError, RuntimeError):  # of another width: its shapes are named below
        resize_pos_embed(tensors, model)
        resize_text_pos_embed(tensors, model)
    check_fit(model, tensors)
    with WithoutRandomWeights():
        model = kind(**fields)
    take_fitting(model, tensors)
    return model


def tag_files(tag: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the hub's repository of a tag, and its weights file: the first name that is there.

    Both are empty if the tag's weights are not on the hub.
    """
    if "file" in tag or not tag.get("hf_hub"):
        return "", ()
    repository, _, file = tag["hf_hub"].rpartition("/")
    file = file or "open_clip_pytorch_model.bin"
    safe = "open_clip_model.safetensors"
    if file != "open_clip_pytorch_model.bin":
        safe = f"{Path(file).stem}.safetensors"
    return repository, (safe, file)


def _fetch_tag(config: ClipConfig, tag: dict[str, Any]) -> str:
    from open_clip.pretrained import download_pretrained

    repository, names = tag_files(tag)
    try:
        return hub_file(repository, *names) if repository else str(download_pretrained(tag))
    except LOAD_FAILURES as error:
        what = f"the CLIP weights {config.model}/{config.pretrained}"
        copy = HubCopy(
            repository or "ORG/REPO", (CONFIG, *names[:1]), "clip.model=local-dir:FOLDER"
        )
        raise not_downloaded(what, error, copy) from None


def _resolve_file(config: ClipConfig, resolve: Callable[[str], str]) -> str:
    import open_clip

    path = resolve(config.pretrained)
    if not Path(path).is_file():
        tags = open_clip.list_pretrained_tags_by_model(config.model)
        raise WeightsError(
            f"clip.pretrained: no weights file at {config.pretrained}: give a path or URL that "
            f"exists, or one of the weights of {config.model}: {', '.join(tags)}"
        )
    return path
