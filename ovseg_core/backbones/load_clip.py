"""Load the CLIP that the job file names, as an open_clip model with its tokenizer.

open_clip takes seconds to import and is not needed to check a job, so it is imported on use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ovseg_core.backbones.checkpoint import (
    ADVICE,
    LOAD_FAILURES,
    check_finite_weights,
    check_reachable,
    one_line,
)
from ovseg_core.embedded import CLIP_FOLDER
from schemas.base import did_you_mean
from schemas.config import EMBEDDED, ClipConfig
from schemas.errors import WeightsError

LOCAL_DIR = "local-dir:"


class Tokenizer(Protocol):
    """A tokenizer of open_clip."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Return token ids, int64 (number of texts, context length)."""
        ...


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
        loaded = _load_folder(CLIP_FOLDER)
    elif config.model.startswith(LOCAL_DIR):
        loaded = _load_folder(Path(config.model.removeprefix(LOCAL_DIR)).expanduser())
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


def _load_folder(folder: Path) -> LoadedClip:
    import open_clip

    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not (folder / "open_clip_config.json").is_file() or not weights:
        raise WeightsError(
            f"{folder} is not a CLIP folder: expected open_clip_config.json and "
            f"open_clip_model.safetensors; {ADVICE}"
        )
    name = f"{LOCAL_DIR}{folder}"
    vocabulary = sorted(folder.glob("*.txt.gz"))
    extra: dict[str, Any] = {"bpe_path": str(vocabulary[0])} if vocabulary else {}
    try:
        model: Any = open_clip.create_model(name, precision="fp32")
        tokenizer = open_clip.get_tokenizer(name, **extra)
    except LOAD_FAILURES as error:
        raise WeightsError(f"the CLIP in {folder} cannot be loaded: {one_line(error)}") from error
    preprocess = model.visual.preprocess_cfg
    return LoadedClip(model, tokenizer, preprocess["mean"], preprocess["std"], str(weights[0]))


def _load_named(config: ClipConfig, resolve: Callable[[str], str]) -> LoadedClip:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    known = open_clip.list_models()
    if config.model not in known:
        raise WeightsError(
            f"clip.model: open_clip has no model {config.model!r}. "
            f"{did_you_mean(config.model, [EMBEDDED, *known])}"
        )
    tag = get_pretrained_cfg(config.model, config.pretrained)
    file = _fetch_tag(config, tag) if tag else _resolve_file(config, resolve)
    # A tag says which activation the weights were trained with; open_clip only warns when it
    # differs (OpenAI's weights need QuickGELU, even where the architecture's name does not say so;
    # docs/methods.md 0.1).
    trained_with = bool(tag.get("quick_gelu")) if tag else False
    quick_gelu = trained_with if config.quick_gelu is None else config.quick_gelu
    try:
        model = open_clip.create_model(
            config.model, pretrained=file, precision="fp32", force_quick_gelu=quick_gelu
        )
        tokenizer = open_clip.get_tokenizer(config.model)
    except LOAD_FAILURES as error:
        message = f"clip: {file} does not fit {config.model}: {one_line(error)}"
        raise WeightsError(message) from error
    mean = tag.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = tag.get("std") or open_clip.OPENAI_DATASET_STD
    return LoadedClip(model, tokenizer, mean, std, file)


def _fetch_tag(config: ClipConfig, tag: dict[str, Any]) -> str:
    from open_clip.pretrained import download_pretrained

    try:
        if repository := tag.get("hf_hub"):
            check_reachable(repository.rpartition("/")[0])
        return str(download_pretrained(tag))
    except LOAD_FAILURES as error:
        raise WeightsError(
            f"the CLIP weights {config.model}/{config.pretrained} cannot be downloaded "
            f"({one_line(error)}); {ADVICE}"
        ) from error


def _resolve_file(config: ClipConfig, resolve: Callable[[str], str]) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(config.model)
    if not config.pretrained:
        raise WeightsError(
            f"clip.pretrained: give the weights of {config.model}: {', '.join(tags)}, or a file"
        )
    looks_like_file = "/" in config.pretrained or "." in config.pretrained
    if not looks_like_file:
        raise WeightsError(
            f"clip.pretrained: {config.model} has no weights {config.pretrained!r}. "
            f"{did_you_mean(config.pretrained, tags)}"
        )
    path = resolve(config.pretrained)
    if not Path(path).is_file():
        raise WeightsError(f"clip.pretrained: no weights file at {config.pretrained}; {ADVICE}")
    return path
