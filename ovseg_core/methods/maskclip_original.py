"""MaskCLIP (Zhou et al., ECCV 2022) as in its own repository: the whole image, scored by cosine.

Pixels are normalised as for ImageNet, and the refinements of the paper can be switched on
(docs/methods.md 4.1, 4.2). The published scores are of OpenAI's weights in a network with plain
GELU and a LayerNorm epsilon of 1e-6; a job that names no CLIP gets this one. The ResNet variants
are not built: ovseg reads vision transformers only.
"""

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.maskclip import MaskClipEncoder, MaskClipOptions, refined
from ovseg_core.dense.options import PublishedSizes
from ovseg_core.dense.scoring import COSINES
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard
from schemas.config import ClipConfig

CARD = MethodCard(
    title="MaskCLIP",
    paper="Extract Free Dense Labels from CLIP",
    arxiv="2112.01071",
    parts="identity attention, residual and MLP; optional prompt denoising and key smoothing",
    clip=ClipConfig(model="ViT-B-16", pretrained="openai", quick_gelu=False, layer_norm_eps=1e-6),
    weights="CLIP ViT-B/16 openai (ViT-B-16, plain GELU)",
    licence="MIT",
    published={"VOC20": 49.5, "Context59": 21.7, "Stuff": 12.5},
)

PUBLISHED = PublishedSizes(short=512 / 224, window=0, stride=0, padding="zeros")
"""512 px, the whole image at once."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By channel, of pixels in [0, 1]."""


class Options(MaskClipOptions):
    """Options of the method `maskclip_original`."""

    imagenet_pixels: bool = True
    """Normalise pixels by ImageNet's mean and deviation, as published; false: by CLIP's own."""


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
    """
    clip = backbones.clip
    if options.imagenet_pixels:
        clip = clip.with_normalisation(IMAGENET_MEAN, IMAGENET_STD)
    # z = v + x, z + MLP(LN(z)) with v = Proj(W_v LN(x)); the label is argmax cos(F, T)
    encoder = MaskClipEncoder(clip, options)
    return WindowSegmenter(backbones, encoder, PUBLISHED, refined(options, COSINES))
