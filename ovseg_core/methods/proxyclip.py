"""ProxyCLIP (Lan et al., ECCV 2024): attention by the similarity of a second network's features.

The last block's values are averaged over the patches that are similar to a self-supervised network
(DINO); residual connection and MLP are dropped. The result lies on that network's grid. Numbers in
comments are sections of docs/methods.md.

Shapes: B windows, L = 1 + N tokens on CLIP's grid, C trunk width, D joint width, E channels and I J
grid of the second network, M = I * J, R rows of one part.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vision.vit import DenseBackbone, FeatureKind
from ovseg_core.dense.encoder import DenseEncoder, DenseFeatures
from ovseg_core.dense.options import PublishedSizes, WindowOptions
from ovseg_core.dense.scoring import COSINES, SURGERY, WITHOUT_CLASS_TOKEN, Adjustment
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard
from schemas.config import ClipConfig, WeightsName
from schemas.errors import ConfigError

CARD = MethodCard(
    title="ProxyCLIP",
    paper="ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation",
    arxiv="2408.04883",
    parts="attention by a second network's similarity, no residual or MLP; windows of cosines",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="CLIP ViT-B/16 openai (ViT-B-16-quickgelu) and DINO ViT-B/8",
    licence="MIT (CLIP), Apache-2.0 (DINO)",
    # Recalled, not re-read (docs/methods.md 13); Object and Stuff agree with a second report.
    published={
        "VOC21": 61.3,
        "Context60": 35.3,
        "Object": 37.5,
        "VOC20": 80.3,
        "Context59": 39.1,
        "Stuff": 26.5,
        "Cityscapes": 38.1,
        "ADE": 20.2,
    },
)

PUBLISHED = PublishedSizes(short=1.5, window=1.5, stride=0.5, padding="middle")
"""336 px, windows of 336 px, 112 px apart."""

PUBLISHED_PROXY = "vit_base_patch8_224.dino"

PROXY = "proxy"
"""Name of the second network's map (B, E, I, J)."""

_PART_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Elements of the similarity matrices held at once; a whole one has M^2 for each window."""


class Options(WindowOptions):
    """Options of the method `proxyclip`."""

    proxy: WeightsName = ""
    """The second network: a timm architecture (DINO, DINOv2, MAE, SAM), `local-dir:FOLDER`,
    `embedded`, or `diffusers:FOLDER` for a UNet; empty: the job's own, if that is embedded or a
    folder, else DINO ViT-B/8."""
    proxy_feature: FeatureKind = "tokens"
    """Its features that are compared: the final tokens as published, or the last block's q, k or
    v."""
    beta: float = 1.2
    """Patches do not attend to each other if their similarity is below beta times the mean."""
    gamma: PositiveFloat = 3.0
    """Multiplies the similarity before its softmax."""
    pad_px: PositiveInt | None = None
    """Windows are padded to multiples of it; null: of both networks' patches."""
    adjust: Adjustment = "none"
    """Feature adjustment: the window's own similarity with each phrase is subtracted from its
    patches'. `literal`: its cosine; `surgery`: as CLIP Surgery removes redundant features."""

    def needed_weights(self, backbones: Backbones, where: str) -> Iterator[NeededWeights]:
        """Yield CLIP and the second network."""
        yield backbones.needed_clip()
        yield backbones.needed_network(self.proxy_model(backbones), f"{where}.options.proxy")

    def proxy_model(self, backbones: Backbones) -> str:
        """Return the name of the second network."""
        return self.proxy or backbones.network_or(PUBLISHED_PROXY)


class ProxyEncoder(DenseEncoder[Options]):
    """Encoder whose last block attends by the similarity of a second network's features.

    Args:
        clip: the model.
        options: the method's.
        proxy: the second network.
    """

    def __init__(self, clip: Clip, options: Options, proxy: DenseBackbone) -> None:
        super().__init__(clip, options)
        self.proxy = proxy

    @property
    def multiple_px(self) -> int:
        """Whole patches of both networks, or as the options say."""
        return self.options.pad_px or math.lcm(self.clip.patch_px, self.proxy.multiple_px)

    def encode_trunk(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return CLIP's trunk with the second network's map of the same windows."""
        pixels_B3HW = self.clip.denormalise(windows_B3HW)
        proxy_BEIJ = self.proxy.features(pixels_B3HW, self.options.proxy_feature)
        return replace(self.forward_trunk(windows_B3HW), extra_maps={PROXY: proxy_BEIJ})

    def encode_dense(self, trunk: TrunkFeatures) -> DenseFeatures:
        """Return the patches on the second network's grid; for an adjustment, class tokens too."""
        proxy_BEIJ, block = trunk.extra_maps[PROXY], self.clip.visual.transformer.resblocks[-1]
        grid_IJ = (proxy_BEIJ.shape[2], proxy_BEIJ.shape[3])
        v_BCIJ = F.interpolate(_values(block, trunk), grid_IJ, mode="bilinear")  # 6.1
        v_BMC = v_BCIJ.flatten(2).transpose(1, 2)
        o_BMC = proxy_attention(proxy_BEIJ, v_BMC, self.options.beta, self.options.gamma)
        f_BMD = self.clip.project(block.attn.out_proj(o_BMC))  # F = LN(Proj(O)) W
        f_BDIJ = f_BMD.transpose(1, 2).unflatten(2, grid_IJ)
        if self.options.adjust == "none":
            return DenseFeatures(f_BDIJ)
        return DenseFeatures(f_BDIJ, self.clip.pool_trunk(trunk))  # 9.3: the ordinary last block


def proxy_attention(
    proxy_BEIJ: Tensor, v_BMC: Tensor, beta: float, gamma: float, part_elements: int | None = None
) -> Tensor:
    """Return softmax(gamma (S - beta mean S)) v (B, M, C), with negative entries masked.

    S holds the cosines of all patches; its mean is of each window by itself. A row whose entries
    are all masked, in a window of one colour, keeps the patch itself (the published code: NaN).

    Args:
        proxy_BEIJ: the second network's features.
        v_BMC: values on its grid; the same attention for every head.
        beta: see `Options`.
        gamma: see `Options`.
        part_elements: elements of S that are held at once; None: a default for the device.
    """
    e_BME = F.normalize(proxy_BEIJ.flatten(2), dim=1).transpose(1, 2)
    mean_B11 = e_BME.mean(dim=1).square().sum(dim=1)[:, None, None]  # of S = E E^T, without S
    o_BMC = torch.empty_like(v_BMC)
    if part_elements is None:
        part_elements = _PART_ELEMENTS.get(v_BMC.device.type, _PART_ELEMENTS["cpu"])
    step = max(part_elements // (len(e_BME) * e_BME.shape[1]), 1)
    for first in range(0, e_BME.shape[1], step):
        rows = slice(first, first + step)
        s_BRM = (e_BME[:, rows] @ e_BME.mT).sub_(beta * mean_B11).mul_(gamma)
        s_BRM.diagonal(offset=first, dim1=1, dim2=2).clamp_(min=0)  # a row's largest entry
        o_BMC[:, rows] = s_BRM.masked_fill_(s_BRM < 0, -torch.inf).softmax(dim=2) @ v_BMC
    return o_BMC


def _values(block: Any, trunk: TrunkFeatures) -> Tensor:
    """Return the last block's values of the patches (B, C, h, w)."""
    in_proj = (block.attn.in_proj_weight, block.attn.in_proj_bias)
    v_BNC = F.linear(block.ln_1(trunk.tokens_BLC[:, 1:]), *(part.chunk(3)[2] for part in in_proj))
    return v_BNC.transpose(1, 2).unflatten(2, trunk.grid_hw)


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
        ConfigError: a feature that the second network does not have.
    """
    name = options.proxy_model(backbones)
    proxy = backbones.network(name, "proxy")
    if options.proxy_feature not in proxy.feature_kinds:
        raise ConfigError(
            f"method.options.proxy_feature: {name} has {', '.join(proxy.feature_kinds)} only, "
            f"got {options.proxy_feature!r}"
        )
    encoder = ProxyEncoder(backbones.clip, options, proxy)
    scorings = {"none": COSINES, "literal": WITHOUT_CLASS_TOKEN, "surgery": SURGERY}
    return WindowSegmenter(backbones, encoder, PUBLISHED, scorings[options.adjust])
