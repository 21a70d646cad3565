"""CLIP-DINOiser (Wysoczanska et al., ECCV 2024): MaskCLIP's patches pooled by an affinity.

The affinity of patches is that of a self-supervised network, or of a small convolution on CLIP's
own features that learned it; objectness, by FOUND or learned likewise, finds the background.
Numbers in comments are sections of docs/methods.md.

Shapes: B windows, N = h * w patches, C channels of the affinity's map, D joint width, K classes.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.file_formats.head_file import needed_head
from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vision.vit import DenseBackbone
from ovseg_core.dense.affinity import cosine_affinity, guided_pooling, threshold_affinity
from ovseg_core.dense.encoder import DenseEncoder, DenseFeatures
from ovseg_core.dense.last_block import dense_patches, identity
from ovseg_core.dense.options import PublishedSizes, WindowOptions
from ovseg_core.dense.scoring import Scoring, patch_probabilities
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.images.resize.position_embedding import PositionInterpolation
from ovseg_core.objectness import found
from ovseg_core.objectness.found import FoundObjectness
from ovseg_core.segmenter import MethodCard, ScoreOnly, TextMatrix
from ovseg_core.training.heads.shared.dinoiser_model import (
    DINO,
    HEAD,
    TAP,
    DinoiserHeads,
    clip_keys,
    load_dinoiser_heads,
    tap_map,
)
from schemas.config import ClipConfig, WeightsName

CARD = MethodCard(
    title="CLIP-DINOiser",
    paper="CLIP-DINOiser: Teaching CLIP a few DINO tricks for open-vocabulary segmentation",
    arxiv="2312.12359",
    parts="identity attention; pooling by learned or DINO affinity; learned objectness or FOUND",
    clip=ClipConfig(model="ViT-B-16", pretrained="laion2b_s34b_b88k"),
    weights="CLIP ViT-B/16 laion2b_s34b_b88k and two heads, or DINO ViT-B/16 and FOUND",
    licence="MIT; heads Apache-2.0",
    published={
        "VOC21": 62.1,
        "Context60": 32.4,
        "Object": 34.8,
        "VOC20": 80.9,
        "Context59": 35.9,
        "Stuff": 24.6,
        "Cityscapes": 31.7,
        "ADE": 20.0,
    },
)

PUBLISHED = PublishedSizes(short=2, window=2, stride=1, padding="black")
"""448 px, windows of 448 px, 224 px apart; padded to whole patches with black."""

AFFINITY, OBJECTNESS = "affinity", "objectness"
"""Names of the maps from which the affinity is computed (B, C, h, w), and of objectness (B, 1, h,
w), a probability."""


class Options(WindowOptions):
    """Options of the method `clip_dinoiser`."""

    affinity: Literal["learned", "dino", "clip_keys"] = "learned"
    """Source of the affinity: the learned head, DINO's values, or keys of CLIP's last block."""
    background: Literal["learned", "found", "found_only", "none"] = "learned"
    """Source of the objectness: the learned head or FOUND. Patches without an object become
    background where no label has a probability of `delta`, with `found_only` everywhere. `none`: as
    published for sets without background."""
    heads: WeightsName = ""
    """File with both heads (path or URL); empty: the authors', for the embedded CLIP its own."""
    affinity_network: WeightsName = ""
    """timm network for `affinity: dino`; empty: DINO ViT-B/16, beside embedded models theirs."""
    found_head: WeightsName = ""
    """FOUND's head for the job's second network; empty: as for the objectness source `found`."""
    gamma: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """Threshold of the affinity below which patches are not pooled together."""
    delta: Annotated[float, Field(ge=0, le=1), ScoreOnly()] = 0.99
    """Confidence from which on a patch keeps its label where there is no object."""
    logit_scale: PositiveFloat = 100.0
    """Multiplies the cosines before the softmax over all phrases."""
    position_rule: PositionInterpolation = "size"
    """How position embeddings are interpolated to other grids than CLIP's own."""

    @property
    def finds_background(self) -> bool:
        """Whether there is an objectness, also its own, or a threshold of probability."""
        return super().finds_background or self.background != "none"

    def needed_weights(self, backbones: Backbones, where: str) -> Iterator[NeededWeights]:
        """Yield CLIP, and the networks and heads of the two sources."""
        yield backbones.needed_clip()
        if self.uses_heads:
            yield needed_head(HEAD, self.heads, backbones)
        if self.affinity == "dino":
            option = f"{where}.options.affinity_network"
            yield backbones.needed_network(self.affinity_model(backbones), option)
        if self.background.startswith("found"):
            network, head = found.Options(head=self.found_head).needed_weights(backbones, where)
            yield network
            yield replace(head, option=f"{where}.options.found_head")

    @property
    def uses_heads(self) -> bool:
        """Whether one of the two sources is learned."""
        return "learned" in (self.affinity, self.background)

    def affinity_model(self, backbones: Backbones) -> str:
        """Return the name of the network of `affinity: dino`."""
        return self.affinity_network or backbones.network_or(DINO)


class PoolingEncoder(DenseEncoder[Options]):
    """Encoder that pools MaskCLIP's patches by an affinity.

    Args:
        clip: the model.
        options: the method's.
        heads: the learned heads, if the options use them.
        dino: the network of `affinity: dino`.
        found: FOUND's objectness, if the options use it.
    """

    def __init__(
        self,
        clip: Clip,
        options: Options,
        heads: DinoiserHeads | None = None,
        dino: DenseBackbone | None = None,
        found: FoundObjectness | None = None,
    ) -> None:
        super().__init__(clip, options)
        self.heads = heads
        self.dino = dino
        self.found = found

    def encode_trunk(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk with extra maps for the affinity and, if needed, objectness."""
        options = self.options
        trunk = self.forward_trunk(windows_B3HW, return_ln2=(TAP,) if self.heads else ())
        pixels_B3HW = self.clip.denormalise(windows_B3HW)
        extra_maps: dict[str, Tensor] = {}
        if self.dino:  # 5.1, DINO: v of its last block
            extra_maps[AFFINITY] = self.dino.features(pixels_B3HW, "v")
        elif self.heads and options.affinity == "learned":  # 5.1, learned: G = conv3x3(X)
            extra_maps[AFFINITY] = self.heads.guide(tap_map(trunk))
        else:  # the ablation "w. CLIP keys"
            extra_maps[AFFINITY] = clip_keys(self.clip, trunk)
        if self.found:  # 5.2, DinoCLIP: on the same crop
            extra_maps[OBJECTNESS] = self.found.patch_probabilities(pixels_B3HW)
        elif self.heads and options.background == "learned":  # 5.2: conv1x1(unit X)
            extra_maps[OBJECTNESS] = self.heads.objectness(tap_map(trunk)).sigmoid()
        return replace(trunk, ln2={}, extra_maps=extra_maps)

    def encode_dense(self, trunk: TrunkFeatures) -> DenseFeatures:
        """Return the pooled patches, and their objectness if there is any."""
        patches_BDhw = dense_patches(self.clip, trunk, identity)  # 4.1: F
        affinity_BChw = trunk.extra_maps[AFFINITY]
        grid_hw = (affinity_BChw.shape[2], affinity_BChw.shape[3])
        affinity_BNN = cosine_affinity(affinity_BChw)  # 5.1: A = G G^T
        affinity_BNN = threshold_affinity(affinity_BNN, self.options.gamma)  # A < gamma -> 0
        pooled_BDhw = guided_pooling(patches_BDhw, affinity_BNN, grid_hw)  # F+ = A F / sum A
        if OBJECTNESS not in trunk.extra_maps:
            return DenseFeatures(pooled_BDhw)
        objectness_B1hw = F.interpolate(trunk.extra_maps[OBJECTNESS], grid_hw, mode="bilinear")
        return DenseFeatures(pooled_BDhw, extra={OBJECTNESS: objectness_B1hw})


def with_background(options: Options) -> Scoring:
    """Return P = softmax(100 cos(F+, T)) with patches that show no object set to background."""

    def score(features: DenseFeatures, text: TextMatrix) -> Tensor:
        probs_BKhw = patch_probabilities(features, text, options.logit_scale)
        if options.background == "none":
            return probs_BKhw
        empty_Bhw = features.extra[OBJECTNESS][:, 0] <= 0.5
        if options.background != "found_only":
            empty_Bhw &= probs_BKhw.amax(dim=1) < options.delta  # 5.2: max_k P < delta
        probs_BKhw[:, 0].masked_fill_(empty_Bhw, 1.0)  # P_0 = 1
        return probs_BKhw

    return Scoring(score, "prob")


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks and heads loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    encoder = build_encoder(options, backbones)
    return WindowSegmenter(backbones, encoder, PUBLISHED, with_background(options))


def build_encoder(options: Options, backbones: Backbones) -> PoolingEncoder:
    """Return the encoder with the networks and heads that the options need; see `build`."""
    heads = dino = objectness = None
    if not backbones.sees_images:
        return PoolingEncoder(backbones.clip, options)
    if options.uses_heads:
        heads = load_dinoiser_heads(options.heads, backbones)
    if options.affinity == "dino":
        dino = backbones.network(options.affinity_model(backbones), "affinity")
    if options.background.startswith("found"):
        objectness = found.build(found.Options(head=options.found_head), backbones)
    return PoolingEncoder(backbones.clip, options, heads, dino, objectness)
