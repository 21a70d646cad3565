"""MaskCLIP (Zhou et al., ECCV 2022) on LAION weights: identity attention in the last block.

The variant that CLIP-DIY and CLIP-DINOiser compare with: residual connection and MLP kept, CLIP's
normalisation of pixels, softmax over the phrases in each window (docs/methods.md 4.1). The original
repository's variant is `maskclip_original`.
"""

from pydantic import PositiveFloat

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TemplateSet
from ovseg_core.dense.maskclip import MaskClipEncoder, MaskClipOptions, refined
from ovseg_core.dense.options import PublishedSizes
from ovseg_core.dense.scoring import probabilities
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard
from schemas.config import ClipConfig

CARD = MethodCard(
    title="MaskCLIP (LAION)",
    paper="Extract Free Dense Labels from CLIP",
    arxiv="2112.01071",
    parts="identity attention, residual and MLP; windows of probabilities",
    clip=ClipConfig(model="ViT-B-16", pretrained="laion2b_s34b_b88k"),
    weights="CLIP ViT-B/16 laion2b_s34b_b88k",
    licence="MIT",
    published={
        "VOC21": 32.9,
        "Context60": 22.9,
        "Object": 16.4,
        "VOC20": 61.8,
        "Context59": 25.6,
        "Stuff": 17.6,
        "Cityscapes": 25.0,
        "ADE": 14.3,
    },
)

PUBLISHED = PublishedSizes(short=2, window=2, stride=1, padding="black")
"""448 px, windows of 448 px, 224 px apart."""


class Options(MaskClipOptions):
    """Options of the method `maskclip`."""

    templates: TemplateSet = "t80"
    """Prompt templates where the vocabulary gives none."""
    logit_scale: PositiveFloat = 100.0
    """Multiplies the cosines before the softmax over all phrases."""


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    # z = v + x, z + MLP(LN(z)) with v = Proj(W_v LN(x)); P = softmax(100 cos(F, T))
    encoder = MaskClipEncoder(backbones.clip, options)
    scoring = refined(options, probabilities(options.logit_scale))
    return WindowSegmenter(backbones, encoder, PUBLISHED, scoring)
