"""CLIP-DINOiser's two convolutions: the affinity of patches and their objectness.

Both take the `ln_2` output of one block of CLIP's trunk, the tap (docs/methods.md 5.1, 5.2, 5.4).
Shapes: B images, C trunk width, L tokens, H heads, d head width, E affinity channels, h w patches.
float32 on CLIP's device.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures, qkv
from ovseg_core.backbones.file_formats.head_file import HeadKind, load_head
from ovseg_core.backbones.registry import Backbones
from ovseg_core.embedded import DINOISER_HEADS
from schemas.errors import WeightsError

TAP = -3
"""The block whose `ln_2` output (its MLP's input) is the tap: 9 of 0 to 11."""
DINO = "vit_base_patch16_224.dino"
"""The network whose affinity the authors' head learned."""
RELEASED = "clip_dinoiser_last.pt"
"""Name under which the authors' checkpoint is resolved where the options name no file."""
HEAD = HeadKind(
    name="dinoiser",
    title="CLIP-DINOiser's heads",
    network="clip",
    tensors={
        "obj_proj.weight": ("E", "C", 3, 3),
        "obj_proj.bias": ("E",),
        "bkg_decoder.weight": (1, "C", 1, 1),
        "bkg_decoder.bias": (1,),
    },
    option="method.options.heads",
    embedded=DINOISER_HEADS,
    released=RELEASED,
    licence="Apache-2.0",
    not_released="clip_dinoiser: its two learned heads cannot be downloaded by ovseg; give the "
    "authors' `last.pt` as `method.options.heads`, train heads with `ovseg train-heads --head "
    "dinoiser`, or take `affinity: dino` with `background: found`, which need none",
)


@dataclass(frozen=True)
class DinoiserHeads:
    """The two convolutions.

    Attributes:
        affinity_weight: (E, C, 3, 3).
        affinity_bias: (E,).
        objectness_weight: (1, C, 1, 1).
        objectness_bias: (1,).
    """

    affinity_weight: Tensor
    affinity_bias: Tensor
    objectness_weight: Tensor
    objectness_bias: Tensor

    def guide(self, tap_BChw: Tensor) -> Tensor:
        """Return the map (B, E, h, w) whose cosine similarities are the learned affinity."""
        padded = F.pad(tap_BChw, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, self.affinity_weight, self.affinity_bias)

    def objectness(self, tap_BChw: Tensor) -> Tensor:
        """Return the objectness logits (B, 1, h, w); only here the tap is normalised first."""
        unit_BChw = F.normalize(tap_BChw, dim=1)
        return F.conv2d(unit_BChw, self.objectness_weight, self.objectness_bias)


def tap_map(trunk: TrunkFeatures) -> Tensor:
    """Return the tap's patches as a map (B, C, h, w)."""
    return trunk.ln2[TAP][:, 1:].transpose(1, 2).unflatten(2, trunk.grid_hw)


def clip_keys(clip: Clip, trunk: TrunkFeatures) -> Tensor:
    """Return the keys of CLIP's last block as a map (B, C, h, w): the ablation's affinity."""
    _, k_BHLd, _ = qkv(clip.visual.transformer.resblocks[-1], trunk.tokens_BLC)
    return k_BHLd[:, :, 1:].transpose(2, 3).flatten(1, 2).unflatten(2, trunk.grid_hw)


def check_depth(clip: Clip) -> None:
    """Refuse a CLIP without the block of the tap.

    Raises:
        WeightsError: it has fewer than three blocks.
    """
    depth = len(clip.visual.transformer.resblocks)
    if depth < -TAP:
        raise WeightsError(
            f"clip_dinoiser needs the third block from the end; this CLIP has {depth} blocks"
        )


def load_dinoiser_heads(file: str, backbones: Backbones) -> DinoiserHeads:
    """Load the heads for the job's CLIP.

    Args:
        file: weights file, in the authors' layout or that of `ovseg train-heads`; empty: the
            embedded heads for the embedded CLIP, else the authors'.
        backbones: supplies CLIP and resolves the file.

    Raises:
        WeightsError: a missing file, other tensors or shapes, or heads of another CLIP.
    """
    check_depth(backbones.clip)
    heads = load_head(HEAD, file, backbones)
    return DinoiserHeads(*(heads[name] for name in HEAD.tensors))
