"""Score maps of the window methods on tiny networks."""

from typing import Any

from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import Image
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import encode_images
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary

LAST_BLOCK_METHODS = ["maskclip", "maskclip_original", "sclip", "clearclip", "naclip", "sc_clip"]
"""Methods that change the last block's attention and need CLIP alone."""

WORDS = Vocabulary.model_validate(["cat", "dog", "sofa", "tree"])


def score_levels(
    backbones: Backbones, images: list[Image], name: str, **options: Any
) -> list[Tensor]:
    """Return each image's scores of `WORDS` (5, h, w)."""
    segmenter = build_segmenter(NamedOptions(name=name, options=options), backbones)
    features = encode_images(segmenter, images)
    maps = segmenter.score(features, segmenter.text_matrix(WORDS))
    return [level for (level,) in maps.levels]
