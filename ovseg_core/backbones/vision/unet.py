"""A diffusion UNet by diffusers, unmodified: the input of its second-to-last up-sampling stage.

That is the decoder's features concatenated with the stage's skip connection, for a noiseless image
(t = 0) and an empty text (docs/methods.md 6.4). A latent UNet gets the latents of the image at
twice its size (6.2). Needs the extra `unet`. The autoencoder is computed in float32 always: that of
Stable Diffusion XL overflows in fp16.

Shapes: B images, H W pixels, C channels, I J cells. What is returned is float32 and on the
network's device.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.checkpoint import (
    LOAD_FAILURES,
    check_finite_weights,
    check_fit,
    load_fitting,
    one_line,
    read_tensors,
)
from ovseg_core.backbones.compute import Compute, call
from ovseg_core.backbones.vision.load_vit import DIFFUSERS
from ovseg_core.backbones.vision.vit import FeatureKind, in_batches
from schemas.errors import WeightsError

MAX_CELLS = 42
"""Limit of cells along a side; the affinity of all cells grows with its fourth power."""
_LATENT_ENLARGEMENT = 2
_MORE_CONDITIONS = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim",
)
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_LIMITS = {"layers_per_block": 8, "transformer_layers_per_block": 16}
_MAX_SIZE, _MAX_VALUES, _MAX_STAGES = 65_536, 64, 8
"""Of numbers in a configuration, of its lists, of its stages; Stable Diffusion has 4."""
_FORMER_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
"""Parts of tensors' names in files of diffusers before 0.18 -> today."""
_PIXELS_PER_TOKEN = 16
"""Pixels of the network's input that cost as much as a token of a vision transformer."""


@dataclass(frozen=True)
class LoadedUnet:
    """A diffusers UNet with its autoencoder, in evaluation mode, on its device.

    Attributes:
        unet: a UNet2DModel or UNet2DConditionModel.
        autoencoder: an AutoencoderKL; None: the UNet takes pixels.
        files: the weights files, by the suffix of the network's role in the run's record.
    """

    unet: Any
    autoencoder: Any
    files: dict[str, str]


class UnetDecoder:
    """The decoder half of a frozen UNet.

    Args:
        loaded: the networks.
        compute: where and how they run.
    """

    feature_kinds: tuple[FeatureKind, ...] = ("tokens",)
    multiple_px = 1

    def __init__(self, loaded: LoadedUnet, compute: Compute) -> None:
        self._compute = compute
        self._run_block = compute.compiled(call)
        self.unet: Any = compute.placed(loaded.unet)
        self.autoencoder: Any = loaded.autoencoder
        self._multiple_px: int = 2 ** (len(self.unet.down_blocks) - 1)
        if self.autoencoder is not None:
            self._multiple_px *= 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def features(self, pixels_B3HW: Tensor, kind: FeatureKind) -> Tensor:
        """Return the features (B, C, I, J), at most 42 x 42 cells; see `DenseBackbone`."""
        enlargement = 1 if self.autoencoder is None else _LATENT_ENLARGEMENT
        height, width = (
            max(round(side * enlargement / self._multiple_px), 1) * self._multiple_px
            for side in pixels_B3HW.shape[-2:]
        )
        tokens = -(-height * width // _PIXELS_PER_TOKEN)
        return in_batches(pixels_B3HW, tokens, lambda part: self._forward(part, (height, width)))

    def _forward(self, pixels_B3HW: Tensor, size_hw: tuple[int, int]) -> Tensor:
        signed = F.interpolate(pixels_B3HW.float(), size_hw, mode="bilinear") / 127.5 - 1
        if self.autoencoder is not None:
            mode = self.autoencoder.encode(signed).latent_dist.mode()
            signed = mode * self.autoencoder.config.scaling_factor
        decoder_BCIJ = self._compute.run(self.decoder_input, signed)
        rows, columns = (min(side, MAX_CELLS) for side in decoder_BCIJ.shape[-2:])
        return F.adaptive_avg_pool2d(decoder_BCIJ, (rows, columns))

    def decoder_input(self, sample: Tensor) -> Tensor:
        """Return the second-to-last up-sampling stage's input concatenated with its skip.

        Args:
            sample: pixels -1..1 or latents (B, channels, height, width), with sides that can be
                halved at every stage.
        """
        unet = self.unet
        time = unet.time_embedding(unet.time_proj(sample.new_zeros(len(sample))))
        if getattr(unet, "time_embed_act", None) is not None:
            time = unet.time_embed_act(time)
        text = self._empty_text(sample)
        x = unet.conv_in(sample)
        skips = [x]
        for block in unet.down_blocks:
            x, of_block = self._run_block(
                block, hidden_states=x, temb=time, **_text_for(block, text)
            )
            skips.extend(of_block)
        if unet.mid_block is not None:
            x = self._run_block(unet.mid_block, x, time, **_text_for(unet.mid_block, text))
        for block in unet.up_blocks[:-2]:
            count = len(block.resnets)
            of_block, skips = tuple(skips[-count:]), skips[:-count]
            x = self._run_block(
                block,
                hidden_states=x,
                temb=time,
                res_hidden_states_tuple=of_block,
                **_text_for(block, text),
            )
        return torch.cat([x, skips[-1]], dim=1)

    def _empty_text(self, sample: Tensor) -> Tensor | None:
        """Return zeros as the text; one token is enough, as all are equal."""
        width = self.unet.config.get("cross_attention_dim")
        if width is None:
            return None
        first = width if isinstance(width, int) else width[0]
        return sample.new_zeros(len(sample), 1, first)


def _text_for(block: Any, text_B1C: Tensor | None) -> dict[str, Tensor | None]:
    if getattr(block, "has_cross_attention", False):
        return {"encoder_hidden_states": text_B1C}
    return {}


def load_unet(folder: Path, device: torch.device) -> LoadedUnet:
    """Load a diffusers UNet, or the `unet` and `vae` of a pipeline's folder.

    Raises:
        WeightsError: diffusers is not installed, the folder holds no UNet, the UNet needs more than
            an image, a time and a text, or the weights are not finite.
    """
    try:
        import diffusers
    except ImportError as error:
        raise WeightsError(
            f"{DIFFUSERS}{folder} needs the package diffusers, which is not installed: "
            "pip install 'ovseg[unet]'"
        ) from error
    folders = {"": folder}
    if (folder / "unet").is_dir():
        folders = {"": folder / "unet", "_vae": folder / "vae"}
    kinds = {"": ("UNet2DModel", "UNet2DConditionModel"), "_vae": ("AutoencoderKL",)}
    networks = {
        part: _network(diffusers, where, kinds[part], device) for part, where in folders.items()
    }
    unet, autoencoder = networks[""], networks.get("_vae")
    _check(unet, autoencoder, folder)
    return LoadedUnet(
        unet, autoencoder, {part: str(where / _WEIGHTS) for part, where in folders.items()}
    )


def _network(diffusers: Any, folder: Path, kinds: tuple[str, ...], device: torch.device) -> Any:
    config, weights = folder / "config.json", folder / _WEIGHTS
    if not config.is_file() or not weights.is_file():
        raise WeightsError(
            f"{folder} is not a folder of diffusers: expected config.json and {_WEIGHTS}"
        )
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        kind = settings.get("_class_name", "no class")
        if kind not in kinds:
            raise WeightsError(f"{folder} holds {kind}; expected {' or '.join(kinds)}")
        cls = getattr(diffusers, kind)
        known = inspect.signature(cls.__init__).parameters
        settings = {key: value for key, value in settings.items() if key in known}
        _check_sizes(settings)
        tensors = read_tensors(weights)
        for former, name in _FORMER_NAMES.items():
            tensors = {key.replace(former, name): value for key, value in tensors.items()}
        with torch.device("meta"):  # without memory, to compare sizes first
            check_fit(cls.from_config(settings), tensors)
        # Not `from_pretrained`: it leaves random numbers where the file lacks a tensor.
        network = cls.from_config(settings).float()
        load_fitting(network, {key: value.float() for key, value in tensors.items()})
    except LOAD_FAILURES as error:
        raise WeightsError(
            f"the network in {folder} cannot be loaded: {one_line(error)}"
        ) from error
    check_finite_weights(network.state_dict(), weights)
    return network.eval().requires_grad_(False).to(device)


def _check_sizes(settings: Mapping[str, Any]) -> None:
    """Refuse a configuration with numbers that no UNet has, before memory is taken for them."""
    for key, value in settings.items():
        values = value if isinstance(value, list) else [value]
        flat = [one for part in values for one in (part if isinstance(part, list) else [part])]
        longest = _MAX_STAGES if key == "block_out_channels" else _MAX_VALUES
        limit = _LIMITS.get(key, _MAX_SIZE)
        if len(flat) > longest:
            raise ValueError(f"{key} has {len(flat)} values, expected at most {longest}")
        if wrong := [one for one in flat if isinstance(one, int | float) and abs(one) > limit]:
            raise ValueError(f"{key} is {wrong[0]}, expected at most {limit}")


def _check(unet: Any, autoencoder: Any, folder: Path) -> None:
    """Refuse a UNet that `UnetDecoder` cannot run."""
    config = unet.config
    wanted = 3 if autoencoder is None else autoencoder.config.latent_channels
    problem = ""
    if config.in_channels != wanted:
        problem = f"it takes {config.in_channels} channels, not {wanted}" + (
            "; a latent UNet needs its pipeline's folder, with `unet` and `vae`"
            if autoencoder is None
            else ""
        )
    elif len(unet.up_blocks) < 2:
        problem = "it has fewer than two up-sampling stages"
    elif config.time_embedding_type != "positional":
        problem = f"its time embedding is {config.time_embedding_type!r}, not 'positional'"
    elif any(hasattr(block, "skip_conv") for block in unet.down_blocks):
        problem = "it has skip blocks"
    elif any(config.get(key) for key in _MORE_CONDITIONS):
        problem = "it needs more than an image, a time and a text"
    if problem:
        raise WeightsError(f"the UNet in {folder} cannot be used as a second network: {problem}")
