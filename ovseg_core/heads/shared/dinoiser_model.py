"""CLIP-DINOiser's two convolutions: which patches are alike, and which show an object.

Both read one tap of CLIP's trunk, the `ln_2` output of a block (methods.md 5.1, 5.2). Shapes: B
images, C trunk width, E affinity channels, h w patches.
"""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.checkpoint import read_tensors
from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.head_file import check_trained_for
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.last_block import qkv
from ovseg_core.embedded import DINOISER_HEADS
from schemas.config import EMBEDDED
from schemas.errors import WeightsError

KIND = "dinoiser"
TAP = -3
"""The block whose MLP input is read: 9 of 12, counted from 0."""
DINO = "vit_base_patch16_224.dino"
"""The network whose affinity they were taught."""
RELEASED = "clip_dinoiser_last.pt"
"""What the authors' checkpoint is looked up as where the options name no file."""

_NAMES = ("obj_proj.weight", "obj_proj.bias", "bkg_decoder.weight", "bkg_decoder.bias")


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
        """Return the map (B, E, h, w) whose cosines are the learned affinity; X is taken raw."""
        padded = F.pad(tap_BChw, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, self.affinity_weight, self.affinity_bias)

    def objectness(self, tap_BChw: Tensor) -> Tensor:
        """Return the objectness logit (B, 1, h, w); here X is made unit first."""
        unit_BChw = F.normalize(tap_BChw, dim=1)
        return F.conv2d(unit_BChw, self.objectness_weight, self.objectness_bias)


def tap_map(state: TrunkFeatures) -> Tensor:
    """Return the tap's patches as a map (B, C, h, w)."""
    return state.ln2[TAP][:, 1:].transpose(1, 2).unflatten(2, state.grid_hw)


def own_keys(clip: Clip, state: TrunkFeatures) -> Tensor:
    """Return the keys of CLIP's last block as a map (B, C, h, w), the ablation's affinity."""
    _, k_BHLd, _ = qkv(clip.visual.transformer.resblocks[-1], state.tokens_BLC)
    return k_BHLd[:, :, 1:].transpose(2, 3).flatten(1, 2).unflatten(2, state.grid_hw)


def check_depth(clip: Clip) -> None:
    """Refuse a CLIP without the block that the heads read.

    Raises:
        WeightsError: it has fewer than three blocks.
    """
    depth = len(clip.visual.transformer.resblocks)
    if depth < -TAP:
        raise WeightsError(
            f"clip_dinoiser reads the third block from the end; this CLIP's tower has {depth}"
        )


def load_heads(file: str, backbones: Backbones) -> DinoiserHeads:
    """Load the heads that belong to the job's CLIP.

    Args:
        file: weights file, in the authors' layout or that of `ovseg train-heads`; empty: the
            embedded heads for the embedded CLIP, else the authors'.
        backbones: supply CLIP and find the file.

    Raises:
        WeightsError: no such file, another layout, or heads of another CLIP.
    """
    clip = backbones.clip
    check_depth(clip)
    place = _place(file, backbones)
    tensors = read_tensors(place)
    affinity, affinity_bias, objectness, objectness_bias = (
        _tensor(tensors, name, place) for name in _NAMES
    )
    width = clip.visual.conv1.out_channels
    shapes = (tuple(affinity.shape[1:]), tuple(objectness.shape))
    if shapes != ((width, 3, 3), (1, width, 1, 1)):
        raise WeightsError(
            f"clip_dinoiser: the heads {place} read maps of {affinity.shape[1]} channels, but this "
            f"CLIP's have {width}; give the heads that belong to it as `method.options.heads`, or "
            "train some with `ovseg train-heads --head dinoiser`"
        )
    check_trained_for(place, KIND, backbones.files()["clip"])
    backbones.note_file(KIND, place)
    return DinoiserHeads(affinity, affinity_bias, objectness, objectness_bias)


def _place(file: str, backbones: Backbones) -> str:
    if file:
        return backbones.resolve(file)
    if backbones.clip_config.model == EMBEDDED:
        return str(DINOISER_HEADS)
    place = backbones.resolve(RELEASED)
    if not Path(place).is_file():
        raise WeightsError(
            "clip_dinoiser: its two learned heads cannot be fetched by ovseg; give the authors' "
            "`last.pt` as `method.options.heads`, train heads with `ovseg train-heads --head "
            "dinoiser`, or take `affinity: dino` with `background: found`, which need none"
        )
    return place


def _tensor(tensors: dict[str, Tensor], name: str, file: str) -> Tensor:
    found = [key for key in tensors if key == name or key.endswith(f".{name}")]
    if not found:
        raise WeightsError(
            f"clip_dinoiser: {file} holds no {name}, only {', '.join(sorted(tensors)[:4])}"
        )
    return tensors[found[0]].float()
