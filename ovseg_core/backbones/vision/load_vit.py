"""Load a timm vision transformer that the job file names: a plain ViT or SAM's image encoder.

timm takes seconds to import and is not needed to check a job, so it is imported on use.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ovseg_core.backbones.checkpoint import (
    ADVICE,
    LOAD_FAILURES,
    WithoutRandomWeights,
    check_finite_weights,
    one_line,
    read_checkpoint,
    state_dict_in,
    take_fitting,
    timm_file,
)
from ovseg_core.backbones.load_clip import LOCAL_DIR
from ovseg_core.embedded import VISION_FOLDER
from schemas.base import did_you_mean
from schemas.config import EMBEDDED
from schemas.errors import WeightsError

DIFFUSERS = "diffusers:"
"""Prefix of a UNet's name (`backbones/vision/unet.py`), before its folder."""

_MAX_DEPTH, _MAX_SIZE = 128, 16_384
_MAX_VALUES_PER_BYTE = 4
"""Numbers of a network by bytes of its file, whose position table may be of a smaller image."""

Family = Literal["vit", "sam"]
"""`vit`: a plain ViT with class token and position table. `sam`: SAM's image encoder."""


@dataclass(frozen=True)
class LoadedVit:
    """A timm model with its normalisation.

    Attributes:
        model: in evaluation mode, without gradients, on its device.
        name: architecture or folder.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        file: the local weights file.
        tag: timm's tag of the training (`dino`, `mae`); empty: unknown.
        family: `vit` is read by `TimmViT`, `sam` by `SamEncoder`.
    """

    model: Any
    name: str
    mean: Sequence[float]
    std: Sequence[float]
    file: str
    tag: str = ""
    family: Family = "vit"


def load_vit(
    model: str, weights: str, device: torch.device, option: str = "vision.model"
) -> LoadedVit:
    """Load a network that the job or its method names.

    Args:
        model: a timm architecture (with or without tag), `local-dir:FOLDER` or `embedded`.
        weights: a local weights file for an architecture; empty: timm's own.
        device: where the model runs.
        option: dotted option that gave the name, for messages.

    Raises:
        WeightsError: an unknown name, weights that cannot be downloaded, a folder without a model,
            weights that are not finite.
    """
    if weights and (model == EMBEDDED or model.startswith((LOCAL_DIR, DIFFUSERS))):
        raise WeightsError(
            f"vision.weights goes with an architecture such as vit_small_patch8_224.dino, but the "
            f"second network is {model!r}, which has its own: leave vision.weights out or set "
            "vision.model"
        )
    if model == EMBEDDED:
        loaded = _load_folder(VISION_FOLDER)
    elif model.startswith(LOCAL_DIR):
        loaded = _load_folder(Path(model.removeprefix(LOCAL_DIR)).expanduser())
    else:
        loaded = _load_named(model, weights, option)
    check_finite_weights(loaded.model.state_dict(), loaded.file)
    loaded.model.eval().requires_grad_(False).to(device)
    return loaded


def _load_folder(folder: Path) -> LoadedVit:
    import timm

    file = folder / "model.safetensors"
    if not (folder / "config.json").is_file() or not file.is_file():
        raise WeightsError(
            f"{folder} is not a timm folder: expected config.json and model.safetensors; {ADVICE}"
        )
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        _check_sizes(settings.get("model_args") or {})
        name = f"{LOCAL_DIR}{folder}"
        with torch.device("meta"), WithoutRandomWeights():  # without memory, to compare sizes first
            outline = timm.create_model(name, pretrained=False)
        num_values = sum(parameter.numel() for parameter in outline.parameters())
        if num_values > _MAX_VALUES_PER_BYTE * file.stat().st_size:
            raise ValueError(
                f"config.json describes {num_values:,} weights, {file.name} has "
                f"{file.stat().st_size:,} bytes"
            )
        with WithoutRandomWeights():
            model = timm.create_model(name, pretrained=False)
    except LOAD_FAILURES as error:
        raise WeightsError(
            f"the network in {folder} cannot be loaded: {one_line(error)}"
        ) from error
    loaded = _loaded(model, str(folder), str(file))
    _fill(loaded)
    return loaded


def _check_sizes(arguments: dict[str, Any]) -> None:
    """Refuse arguments with numbers that no network has, before time and memory go into them."""
    for key, value in arguments.items():
        limit = _MAX_DEPTH if key == "depth" else _MAX_SIZE
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int | float) and abs(one) > limit:
                raise ValueError(f"model_args: {key} is {one}, expected at most {limit}")


def check_timm_name(name: str, option: str) -> None:
    """Check that timm has a network of a name.

    Args:
        name: an architecture, with or without the tag of weights.
        option: dotted option that gave the name, for messages.

    Raises:
        WeightsError: it has none.
    """
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise WeightsError(
            f"{option}: timm has no model {name!r}. "
            f"{did_you_mean(architecture, [*timm.list_models(), EMBEDDED])}"
        )
    tagged = timm.list_pretrained(f"{architecture}.*") if "." in name else [name]
    if name not in tagged:
        raise WeightsError(f"{option}: {name!r} is unknown. {did_you_mean(name, tagged)}")


def num_values_of_vit(name: str) -> int:
    """Return how many numbers a network of timm has."""
    import timm

    with torch.device("meta"), WithoutRandomWeights():
        model = timm.create_model(name, pretrained=False, num_classes=0)
    return sum(parameter.numel() for parameter in model.parameters())


def _load_named(name: str, weights: str, option: str) -> LoadedVit:
    import timm

    check_timm_name(name, option)
    with WithoutRandomWeights():
        model = timm.create_model(name, pretrained=False, num_classes=0)
    _family(model, name)  # raises before a useless download
    advice = f"make it vision.model and give their file as vision.weights; {ADVICE}"
    loaded = _loaded(
        model, name, weights or timm_file(name, "vision.model=local-dir:FOLDER", advice)
    )
    _fill(loaded)
    return loaded


def _fill(loaded: LoadedVit) -> None:
    """Load the weights, in timm's names or the authors'; a missing tensor is an error."""
    from timm.models import vision_transformer, vision_transformer_sam

    filters: dict[Family, Any] = {"vit": vision_transformer, "sam": vision_transformer_sam}
    model, name, file = loaded.model, loaded.name, loaded.file
    tensors = state_dict_in(read_checkpoint(file))
    try:
        # The file may hold a classifier's head as well.
        take_fitting(model, filters[loaded.family].checkpoint_filter_fn(tensors, model), extra=True)
    except LOAD_FAILURES as error:
        raise WeightsError(f"vision: {file} does not fit {name}: {one_line(error)}") from error


def _family(model: Any, name: str) -> Family:
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    if isinstance(model, VisionTransformerSAM):
        return "sam"
    readable = (
        isinstance(model, VisionTransformer)
        and model.cls_token is not None
        and model.pos_embed is not None
        and hasattr(model.blocks[-1].attn, "qkv")
    )
    if not readable:
        raise WeightsError(
            f"vision: {name} is a {type(model).__name__} that ovseg cannot read; it needs a plain "
            "ViT with class token and position table, for example vit_small_patch8_224.dino, or "
            "SAM's image encoder (samvit_base_patch16.sa1b)"
        )
    return "vit"


def _loaded(model: Any, name: str, file: str) -> LoadedVit:
    family = _family(model, name)
    config: dict[str, Any] = model.pretrained_cfg
    tag: str = config.get("tag") or ""
    return LoadedVit(model, name, config["mean"], config["std"], file, tag, family)
