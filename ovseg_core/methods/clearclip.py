"""ClearCLIP (Lan et al., ECCV 2024): q-q attention in the last block, no residual and no MLP.

The paper finds that the residual connection carries the noise of the dense features, and drops it
together with the MLP (docs/methods.md 7).
"""

from pydantic import PositiveFloat

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.encoder import LastBlockEncoder
from ovseg_core.dense.last_block import Pair, SoftmaxSum
from ovseg_core.dense.options import AttentionOptions, PublishedSizes
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard
from schemas.config import ClipConfig

CARD = MethodCard(
    title="ClearCLIP",
    paper="ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference",
    arxiv="2407.12442",
    parts="q-q attention, no residual or MLP; windows of cosines",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="CLIP ViT-B/16 openai (ViT-B-16-quickgelu)",
    licence="MIT",
    published={
        "VOC21": 51.8,
        "Context60": 32.6,
        "Object": 33.0,
        "VOC20": 80.9,
        "Context59": 35.9,
        "Stuff": 23.9,
        "Cityscapes": 30.0,
        "ADE": 16.7,
    },
)

PUBLISHED = PublishedSizes(short=2, window=2, stride=1, padding="middle")
"""448 px, windows of 448 px, 224 px apart."""

PAIRS: tuple[Pair, ...] = ("qq",)
"""softmax(q q^T / sqrt d)."""


class Options(AttentionOptions):
    """Options of the method `clearclip`."""

    logit_scale: PositiveFloat = 50.0
    """Multiplies the cosines before the softmax over all phrases."""
    residual: bool = False
    """Keep the last block's residual connection and MLP; the published method drops them."""


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    # X_dense = LN(Proj(softmax(q q^T / sqrt d) v)) W: no X_res, no FFN
    encoder = LastBlockEncoder(
        backbones.clip, options, lambda _, limit: SoftmaxSum(PAIRS, limit), options.residual
    )
    return WindowSegmenter(backbones, encoder, PUBLISHED)
