"""SCLIP (Wang et al., ECCV 2024): correlative self-attention in the last block.

Tokens attend by the similarity of their queries, plus by the similarity of their keys; residual
connection and MLP are kept (docs/methods.md 7).
"""

from typing import Annotated

from pydantic import Field

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.encoder import LastBlockEncoder
from ovseg_core.dense.last_block import Pair, SoftmaxSum
from ovseg_core.dense.options import AttentionOptions, PublishedSizes
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard, ScoreOnly
from schemas.config import ClipConfig

CARD = MethodCard(
    title="SCLIP",
    paper="SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference",
    arxiv="2312.01597",
    parts="q-q plus k-k attention, residual and MLP; windows of cosines",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="CLIP ViT-B/16 openai (ViT-B-16-quickgelu)",
    licence="MIT",
    published={
        "VOC21": 59.63,
        "Context60": 31.74,
        "Object": 33.52,
        "VOC20": 81.54,
        "Context59": 34.46,
        "Stuff": 22.77,
        "Cityscapes": 32.34,
        "ADE": 16.45,
    },
)

PUBLISHED = PublishedSizes(short=1.5, window=1, stride=0.5, padding="drop")
"""336 px, windows of 224 px, 112 px apart."""

PAIRS: tuple[Pair, ...] = ("qq", "kk")
"""softmax(q q^T / sqrt d) + softmax(k k^T / sqrt d): rows sum to 2, as published."""


class Options(AttentionOptions):
    """Options of the method `sclip`.

    Published for VOC21: logit scale 65, both thresholds 0.1; for Context60 and COCO-Object: logit
    scale 50, probability threshold 0.1.
    """

    area_threshold: Annotated[float, Field(ge=0, le=1), ScoreOnly()] = 0.0
    """A label with no more than this share of the pixels that are not background is dropped from
    the image; 0: none is."""


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    encoder = LastBlockEncoder(
        backbones.clip, options, lambda _, limit: SoftmaxSum(PAIRS, limit), residual=True
    )
    return WindowSegmenter(backbones, encoder, PUBLISHED, area_threshold=options.area_threshold)
