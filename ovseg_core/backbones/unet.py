"""A diffusion UNet by diffusers, unmodified: what enters its second-to-last up-sampling stage.

The features that come up from below, joined with the stage's skip connection, for a noiseless image
(t = 0) and no words (methods.md 6.4). A latent UNet reads what its autoencoder makes of the image,
enlarged to twice the size (6.2). Needs the extra `unet`. Shapes: B images, C channels, I J cells.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.checkpoint import LOAD_FAILURES, one_line
from ovseg_core.backbones.load_vit import DIFFUSERS
from ovseg_core.backbones.vit import FeatureKind, in_batches
from schemas.errors import WeightsError

MOST_CELLS = 42
"""Cells along a side: the affinity holds the square of their number."""
_LATENT_ENLARGEMENT = 2
_FURTHER_CONDITIONS = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim",
)
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_PIXELS_PER_TOKEN = 16
"""What a pixel of the network's input costs, beside a token of a vision transformer."""


@dataclass(frozen=True)
class LoadedUnet:
    """What the loader hands to `UnetDecoder`; everything in evaluation mode, on its device.

    Attributes:
        unet: a UNet2DModel or UNet2DConditionModel.
        autoencoder: an AutoencoderKL; None: the UNet reads pixels.
        files: the weights files, by what is added to the network's role in the run's record.
    """

    unet: Any
    autoencoder: Any
    files: dict[str, str]


class UnetDecoder:
    """The decoder half of a UNet, read only.

    Args:
        loaded: the networks.
    """

    feature_kinds: tuple[FeatureKind, ...] = ("tokens",)
    multiple_px = 1

    def __init__(self, loaded: LoadedUnet) -> None:
        """Keep the networks."""
        self.unet: Any = loaded.unet
        self.autoencoder: Any = loaded.autoencoder
        self._multiple_px: int = 2 ** (len(self.unet.down_blocks) - 1)
        if self.autoencoder is not None:
            self._multiple_px *= 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def features(self, pixels_B3HW: Tensor, kind: FeatureKind) -> Tensor:
        """Return the features (B, C, I, J), pooled to at most 42 x 42; see `DenseBackbone`."""
        enlargement = 1 if self.autoencoder is None else _LATENT_ENLARGEMENT
        height, width = (
            max(round(side * enlargement / self._multiple_px), 1) * self._multiple_px
            for side in pixels_B3HW.shape[-2:]
        )
        tokens = -(-height * width // _PIXELS_PER_TOKEN)
        return in_batches(pixels_B3HW, tokens, lambda part: self._read(part, (height, width)))

    def _read(self, pixels_B3HW: Tensor, size_hw: tuple[int, int]) -> Tensor:
        signed = F.interpolate(pixels_B3HW.float(), size_hw, mode="bilinear") / 127.5 - 1
        if self.autoencoder is not None:
            mode = self.autoencoder.encode(signed).latent_dist.mode()
            signed = mode * self.autoencoder.config.scaling_factor
        joined_BCIJ = self.decoder_input(signed)
        rows, columns = (min(side, MOST_CELLS) for side in joined_BCIJ.shape[-2:])
        return F.adaptive_avg_pool2d(joined_BCIJ, (rows, columns))

    def decoder_input(self, sample: Tensor) -> Tensor:
        """Return the second-to-last up-sampling stage's input joined with its skip.

        Args:
            sample: pixels -1..1 or latents, of sides that can be halved at every stage.
        """
        unet = self.unet
        time = unet.time_embedding(unet.time_proj(sample.new_zeros(len(sample))))
        if getattr(unet, "time_embed_act", None) is not None:
            time = unet.time_embed_act(time)
        words = self._no_words(sample)
        x = unet.conv_in(sample)
        skips = [x]
        for block in unet.down_blocks:
            x, of_block = block(hidden_states=x, temb=time, **_words_for(block, words))
            skips.extend(of_block)
        if unet.mid_block is not None:
            x = unet.mid_block(x, time, **_words_for(unet.mid_block, words))
        for block in unet.up_blocks[:-2]:
            count = len(block.resnets)
            of_block, skips = tuple(skips[-count:]), skips[:-count]
            x = block(
                hidden_states=x,
                temb=time,
                res_hidden_states_tuple=of_block,
                **_words_for(block, words),
            )
        return torch.cat([x, skips[-1]], dim=1)

    def _no_words(self, sample: Tensor) -> Tensor | None:
        """Return zeros for the text's tokens; one does, as they are all alike."""
        width = self.unet.config.get("cross_attention_dim")
        if width is None:
            return None
        first = width if isinstance(width, int) else width[0]
        return sample.new_zeros(len(sample), 1, first)


def _words_for(block: Any, words_B1C: Tensor | None) -> dict[str, Tensor | None]:
    reads = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": words_B1C} if reads else {}


def load(folder: Path, device: torch.device) -> LoadedUnet:
    """Load a diffusers UNet, or the `unet` and `vae` of a pipeline's folder.

    Raises:
        WeightsError: diffusers is not installed, the folder is not a UNet, or a UNet that needs
            more than an image and a time.
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
            f"{folder} is no folder of diffusers: expected config.json and {_WEIGHTS}"
        )
    try:
        kind = json.loads(config.read_text()).get("_class_name", "no class")
        if kind not in kinds:
            raise WeightsError(f"{folder} holds {kind}; expected {' or '.join(kinds)}")
        network = getattr(diffusers, kind).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except LOAD_FAILURES as error:
        raise WeightsError(
            f"the network in {folder} cannot be loaded: {one_line(error)}"
        ) from error
    return network.float().eval().requires_grad_(False).to(device)


def _check(unet: Any, autoencoder: Any, folder: Path) -> None:
    config = unet.config
    wanted = 3 if autoencoder is None else autoencoder.config.latent_channels
    problem = ""
    if config.in_channels != wanted:
        problem = f"it reads {config.in_channels} channels, not {wanted}" + (
            "; a latent UNet needs its pipeline's folder, with `unet` and `vae`"
            if autoencoder is None
            else ""
        )
    elif len(unet.up_blocks) < 2:
        problem = "it has fewer than two up-sampling stages"
    elif config.time_embedding_type != "positional":
        problem = f"its {config.time_embedding_type} time has no t = 0"
    elif any(hasattr(block, "skip_conv") for block in unet.down_blocks):
        problem = "it has skip blocks"
    elif any(config.get(key) for key in _FURTHER_CONDITIONS):
        problem = "it needs more than an image, a time and words"
    if problem:
        raise WeightsError(f"the UNet in {folder} cannot be the proxy: {problem}")
