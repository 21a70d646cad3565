"""CLIP-DINOiser (Wysoczanska et al., ECCV 2024): MaskCLIP's patches, pooled among their like.

Which patches are alike a self-supervised network says, or a small convolution that learned it; so
with what is background. Numbers beside the lines are those of methods.md. Shapes: B windows, W
windows of one image, N = h * w patches, D joint width, K classes.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.position_embedding import PositionInterpolation
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vit import DenseBackbone
from ovseg_core.dense.affinity import cosine_affinity, guided_pooling, threshold_affinity
from ovseg_core.dense.attention import identity
from ovseg_core.dense.encoder import read_trunk
from ovseg_core.dense.last_block import dense_features
from ovseg_core.dense.options import PublishedSizes, Scoring, WindowOptions, probabilities
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.heads.shared.dinoiser_model import (
    DINO,
    TAP,
    DinoiserHeads,
    clip_keys,
    load_dinoiser_heads,
    tap_map,
)
from ovseg_core.objectness import found
from ovseg_core.segmenter import MethodCard, TextMatrix
from schemas.config import ClipConfig

CARD = MethodCard(
    title="CLIP-DINOiser",
    paper="CLIP-DINOiser: Teaching CLIP a few DINO tricks for open-vocabulary segmentation",
    arxiv="2312.12359",
    parts="identity attention; pooling by learned or DINO affinity; learned objectness or FOUND",
    clip=ClipConfig(model="ViT-B-16", pretrained="laion2b_s34b_b88k"),
    weights="CLIP ViT-B/16 laion2b_s34b_b88k and two heads, or DINO ViT-B/16 and FOUND",
    licence="MIT; heads Apache-2.0",
    published={
        "VOC21": 62.1, "Context60": 32.4, "Object": 34.8, "VOC20": 80.9,
        "Context59": 35.9, "Stuff": 24.6, "Cityscapes": 31.7, "ADE": 20.0,
    },
)  # fmt: skip

PUBLISHED = PublishedSizes(short=2, window=2, stride=1, padding="black")
"""448 px, windows of 448 px, 224 px apart; what is missing to whole patches is black."""


class Options(WindowOptions):
    """Options of the method `clip_dinoiser`."""

    affinity: Literal["learned", "dino", "clip_keys"] = "learned"
    """Who says which patches are alike: the heads, DINO's values, or keys of CLIP's last block."""
    background: Literal["learned", "found", "found_only", "none"] = "learned"
    """Who says which patches show no object: the heads or FOUND; they become background where no
    word is sure, with `found_only` everywhere. `none`: as published for sets without background."""
    heads: str = ""
    """File with both heads (path or URL); empty: the authors', for the embedded CLIP its own."""
    affinity_network: str = ""
    """timm network for `affinity: dino`; empty: DINO ViT-B/16, beside embedded models theirs."""
    found_head: str = ""
    """FOUND's head for the job's second network; empty: as for the objectness source `found`."""
    least_affinity: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """Patches less alike than this do not pool (gamma)."""
    sure: Annotated[float, Field(ge=0, le=1)] = 0.99
    """A word at least as likely as this is sure (delta)."""
    logit_scale: PositiveFloat = 100.0
    """Multiplies the cosines before the softmax over all phrases."""
    position_rule: PositionInterpolation = "size"
    """How the position table is read at other grids than its own."""


@dataclass(frozen=True)
class PoolingReader:
    """Reads windows with CLIP and with the heads or networks that the options ask for."""

    clip: Clip
    options: Options
    heads: DinoiserHeads | None
    dino: DenseBackbone | None
    found: found.FoundObjectness | None

    @property
    def multiple_px(self) -> int:
        """CLIP's patch."""
        return self.clip.patch_px

    def read(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk with what pools (`affinity`) and what is an object (`foreground`)."""
        options = self.options
        state = read_trunk(self.clip, windows_B3HW, options, (TAP,) if self.heads else ())
        pixels_B3HW = self.clip.denormalise(windows_B3HW)
        guides: dict[str, Tensor] = {}
        if self.dino:  # 5.1, DINO: v of its last block
            guides["affinity"] = self.dino.features(pixels_B3HW, "v")
        elif self.heads and options.affinity == "learned":  # 5.1, learned: G = conv3x3(X)
            guides["affinity"] = self.heads.guide(tap_map(state))
        else:  # the ablation "w. CLIP keys"
            guides["affinity"] = clip_keys(self.clip, state)
        if self.found:  # 5.2, DinoCLIP: on the same crop
            guides["foreground"] = self.found.patch_probabilities(pixels_B3HW)
        elif self.heads and options.background == "learned":  # 5.2: conv1x1(unit X)
            guides["foreground"] = self.heads.objectness(tap_map(state)).sigmoid()
        return replace(state, ln2={}, extra_maps=guides)

    def finish(self, state: TrunkFeatures) -> Tensor:
        """Return the pooled patches (B, D, h, w), then the foreground probability if any."""
        features_BDhw = dense_features(self.clip, state, identity)  # 4.1: F
        guide_BChw = state.extra_maps["affinity"]
        grid_hw = (guide_BChw.shape[2], guide_BChw.shape[3])
        affinity_BNN = cosine_affinity(guide_BChw)  # 5.1: A = G G^T
        affinity_BNN = threshold_affinity(
            affinity_BNN, self.options.least_affinity
        )  # A < gamma -> 0
        pooled_BDhw = guided_pooling(features_BDhw, affinity_BNN, grid_hw)  # F+ = A F / sum A
        if "foreground" not in state.extra_maps:
            return pooled_BDhw
        foreground = F.interpolate(state.extra_maps["foreground"], size=grid_hw, mode="bilinear")
        return torch.cat([pooled_BDhw, foreground], dim=1)


def with_background(options: Options) -> Scoring:
    """Return P = softmax(100 cos(F+, T)) with the patches that show no object set to background."""

    def maps(unit_WDhw: Tensor, extra_WEhw: Tensor, text: TextMatrix, scale: float) -> Tensor:
        probs_WKhw = probabilities(unit_WDhw, extra_WEhw, text, scale)
        if options.background == "none":
            return probs_WKhw
        empty_Whw = extra_WEhw[:, 0] <= 0.5
        if options.background != "found_only":
            empty_Whw &= probs_WKhw.amax(dim=1) < options.sure  # 5.2: max_k P < delta
        probs_WKhw[:, 0].masked_fill_(empty_Whw, 1.0)  # P_0 = 1
        return probs_WKhw

    return Scoring(maps, "prob")


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Load CLIP and what the options ask for.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    reader = read_with(options, backbones)
    return WindowSegmenter(backbones, reader, options, PUBLISHED, with_background(options))


def read_with(options: Options, backbones: Backbones) -> PoolingReader:
    """Return the reader with the networks and heads that the options ask for; see `build`."""
    heads = dino = foreground = None
    if "learned" in (options.affinity, options.background):
        heads = load_dinoiser_heads(options.heads, backbones)
    if options.affinity == "dino":
        model = options.affinity_network or backbones.network_or(DINO)
        dino = backbones.network(model, "affinity")
    if options.background.startswith("found"):
        foreground = found.build(found.Options(head=options.found_head), backbones)
    return PoolingReader(backbones.clip, options, heads, dino, foreground)
