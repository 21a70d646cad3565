"""NACLIP (Hajimiri et al., WACV 2025): k-k attention with a Gaussian bias to the neighbourhood.

A Gaussian of the distance of two patches is added to the similarity of their keys; residual
connection and MLP of the last block are dropped, and PAMR refines the scores (docs/methods.md 7).
"""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.encoder import LastBlockEncoder
from ovseg_core.dense.last_block import Neighbourhood
from ovseg_core.dense.options import AttentionOptions, PublishedSizes
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard
from schemas.config import ClipConfig

CARD = MethodCard(
    title="NACLIP",
    paper="Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation",
    arxiv="2404.08181",
    parts="k-k attention with a Gaussian of the distance, no residual or MLP; PAMR",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="CLIP ViT-B/16 openai (ViT-B-16-quickgelu)",
    licence="MIT",
    published={
        "VOC21": 64.07,
        "Context60": 34.99,
        "Object": 36.19,
        "VOC20": 83.03,
        "Context59": 38.35,
        "Stuff": 25.69,
        "Cityscapes": 38.27,
        "ADE": 19.05,
    },
)

PUBLISHED = PublishedSizes(short=1.5, window=1, stride=0.5, padding="drop")
"""336 px, windows of 224 px, 112 px apart."""


class Options(AttentionOptions):
    """Options of the method `naclip`."""

    pamr_steps: NonNegativeInt = 10
    """Steps of PAMR, which aligns the scores with the edges of the image, at full size; 0: none."""
    sigma_patches: PositiveFloat = 5.0
    """Standard deviation of the Gaussian in patches (sigma)."""
    architecture: Literal["reduced", "vanilla"] = "reduced"
    """`vanilla` keeps the last block's residual connection and MLP, `reduced` drops them."""


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    clip = backbones.clip

    def attention(trunk: TrunkFeatures, limit: Tensor | None) -> Neighbourhood:
        # softmax(k k^T / sqrt d + G), G_pq = exp(-|p - q|^2 / (2 sigma^2))
        return Neighbourhood(trunk.grid_hw, options.sigma_patches, clip.device, limit)

    encoder = LastBlockEncoder(clip, options, attention, options.architecture == "vanilla")
    return WindowSegmenter(backbones, encoder, PUBLISHED)
