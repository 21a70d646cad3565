"""ProxyCLIP (Lan et al., ECCV 2024): a self-supervised network says who attends to whom.

The last block's values are averaged over the patches that look alike to a second network (DINO);
residual connection and MLP are dropped. The result lies on that network's grid. The numbers beside
the lines are the sections of methods.md. Shapes: B windows, L = 1 + N tokens on CLIP's grid, C
trunk width, D joint width, I J the second network's grid, M = I * J, R rows of one part.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vit import DenseBackbone, FeatureKind
from ovseg_core.dense.adjust import Adjustment, adjusted
from ovseg_core.dense.encoder import read_trunk
from ovseg_core.dense.options import COSINES, PublishedSizes, WindowOptions
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard
from schemas.config import ClipConfig
from schemas.errors import ConfigError

CARD = MethodCard(
    title="ProxyCLIP",
    paper="ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation",
    arxiv="2408.04883",
    parts="attention by a second network's likeness, no residual or MLP; windows of cosines",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="CLIP ViT-B/16 openai (ViT-B-16-quickgelu) and DINO ViT-B/8",
    licence="MIT (CLIP), Apache-2.0 (DINO)",
    # Recalled, not re-read (methods.md 13); Object and Stuff agree with a second report.
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

_PART_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Elements of the likeness matrix that are held at once; whole ones are M^2 a window."""


class Options(WindowOptions):
    """Options of the method `proxyclip`."""

    proxy: str = ""
    """The second network: a timm architecture (DINO, DINOv2, MAE, SAM), `local-dir:FOLDER`,
    `embedded`, or `diffusers:FOLDER` for a UNet; empty: the job's own, if that is embedded or a
    folder, else DINO ViT-B/8."""
    proxy_feature: FeatureKind = "tokens"
    """What of it is compared: the final tokens as published, or the last block's q, k or v."""
    beta: float = 1.2
    """Patches less alike than this times the mean likeness do not see each other."""
    gamma: PositiveFloat = 3.0
    """Multiplies the likeness before its softmax."""
    pad_px: PositiveInt | None = None
    """Windows are padded to multiples of it; null: of both networks' patches."""
    adjust: Adjustment = "none"
    """Feature adjustment: what the window as a whole has of each phrase is taken off its patches.
    `literal`: its cosine; `surgery`: as CLIP Surgery takes off redundant features."""


@dataclass(frozen=True)
class ProxyReader:
    """Reads windows: CLIP's trunk, guided by the second network."""

    clip: Clip
    proxy: DenseBackbone
    options: Options

    @property
    def multiple_px(self) -> int:
        """Whole patches of both networks, or what the options say."""
        return self.options.pad_px or math.lcm(self.clip.patch_px, self.proxy.multiple_px)

    def read(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return CLIP's trunk and the second network's map of the same windows."""
        guide = self.proxy.features(self.clip.denormalise(windows_B3HW), self.options.proxy_feature)
        return replace(
            read_trunk(self.clip, windows_B3HW, self.options), extra_maps={"proxy": guide}
        )

    def finish(self, state: TrunkFeatures) -> Tensor:
        """Return the patches (B, D, I, J); with an adjustment, the windows' embeddings too."""
        guide_BEIJ, block = state.extra_maps["proxy"], self.clip.visual.transformer.resblocks[-1]
        grid_IJ = (guide_BEIJ.shape[2], guide_BEIJ.shape[3])
        v_BCIJ = F.interpolate(_values(block, state), grid_IJ, mode="bilinear")  # 6.1
        v_BMC = v_BCIJ.flatten(2).transpose(1, 2)
        o_BMC = proxy_attention(guide_BEIJ, v_BMC, self.options.beta, self.options.gamma)
        f_BMD = self.clip.project(block.attn.out_proj(o_BMC))  # F = LN(Proj(O)) W
        f_BDIJ = f_BMD.transpose(1, 2).unflatten(2, grid_IJ)
        if self.options.adjust == "none":
            return f_BDIJ
        class_BD11 = self.clip.pool_trunk(state)[:, :, None, None]  # 9.3: the ordinary last block
        return torch.cat([f_BDIJ, class_BD11.expand_as(f_BDIJ)], dim=1)


def proxy_attention(guide_BEIJ: Tensor, v_BMC: Tensor, beta: float, gamma: float) -> Tensor:
    """Return softmax(gamma (S - beta mean S)) v, where patches of negative entries are not seen.

    S holds the cosines of all patches; its mean is of each window by itself. A row without any
    entry left, in a window of one colour, keeps the patch itself (the published code: NaN).

    Args:
        guide_BEIJ: the second network's features.
        v_BMC: values on its grid; the same attention for every head.
        beta: see `Options`.
        gamma: see `Options`.
    """
    e_BME = F.normalize(guide_BEIJ.flatten(2), dim=1).transpose(1, 2)
    mean_B11 = e_BME.mean(dim=1).square().sum(dim=1)[:, None, None]  # of S = E E^T, without S
    o_BMC = torch.empty_like(v_BMC)
    most = _PART_ELEMENTS.get(v_BMC.device.type, _PART_ELEMENTS["cpu"])
    step = max(most // (len(e_BME) * e_BME.shape[1]), 1)
    for first in range(0, e_BME.shape[1], step):
        rows = slice(first, first + step)
        s_BRM = (e_BME[:, rows] @ e_BME.mT).sub_(beta * mean_B11).mul_(gamma)
        s_BRM.diagonal(offset=first, dim1=1, dim2=2).clamp_(min=0)  # a row's largest entry
        o_BMC[:, rows] = s_BRM.masked_fill_(s_BRM < 0, -torch.inf).softmax(dim=2) @ v_BMC
    return o_BMC


def _values(block: Any, state: TrunkFeatures) -> Tensor:
    """Return the last block's values of the patches (B, C, h, w)."""
    in_proj = (block.attn.in_proj_weight, block.attn.in_proj_bias)
    v_BNC = F.linear(block.ln_1(state.tokens_BLC[:, 1:]), *(part.chunk(3)[2] for part in in_proj))
    return v_BNC.transpose(1, 2).unflatten(2, state.grid_hw)


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Load CLIP, the second network and the objectness source.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
        ConfigError: a feature that the second network does not have.
    """
    name = options.proxy or backbones.network_or(PUBLISHED_PROXY)
    proxy = backbones.network(name, "proxy")
    if options.proxy_feature not in proxy.feature_kinds:
        raise ConfigError(
            f"method.options.proxy_feature: {name} has {', '.join(proxy.feature_kinds)} only, "
            f"got {options.proxy_feature!r}"
        )
    reader = ProxyReader(backbones.clip, proxy, options)
    scoring = COSINES if options.adjust == "none" else adjusted(options.adjust)
    return WindowSegmenter(backbones, reader, options, PUBLISHED, scoring)
