"""ClearCLIP (Lan et al., ECCV 2024): the last block is its q-q attention, and nothing else.

The residual connection carries the noise of the global branch, so it is dropped with the MLP.
"""

from pydantic import PositiveFloat

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.attention import SoftmaxSum
from ovseg_core.dense.encoder import LastBlockEncoder
from ovseg_core.dense.options import PublishedSizes, WindowOptions
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

ATTENTION = SoftmaxSum(("qq",))
"""softmax(q q^T / sqrt d)."""


class Options(WindowOptions):
    """Options of the method `clearclip`."""

    logit_scale: PositiveFloat = 50.0
    """Multiplies the cosines before the softmax over all phrases."""
    residual: bool = False
    """Keep the last block's residual connection and MLP; the published method drops them."""


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Load CLIP and the objectness source.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    # X_dense = LN(Proj(softmax(q q^T / sqrt d) v)) W: no X_res, no FFN
    reader = LastBlockEncoder(backbones.clip, options, lambda _: ATTENTION, options.residual)
    return WindowSegmenter(backbones, reader, options, PUBLISHED)
