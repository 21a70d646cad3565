"""Every method gives the same scores on the GPU as on the CPU."""

import pytest
import torch
from torch import Tensor

from ovseg_core import methods
from ovseg_core.backbones.registry import Backbones
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import encode_images
from schemas import plugins
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary
from tests.helpers.method_options import needed_options
from tests.helpers.tiny_models import random_image, tiny_backbones

SIZES = [(45, 60), (60, 45), (45, 60), (33, 70)]


def score_tensors(name: str, backbones: Backbones) -> list[Tensor]:
    options = needed_options(name, backbones)
    segmenter = build_segmenter(NamedOptions(name=name, options=options), backbones)
    images = [random_image(seed, *size) for seed, size in enumerate(SIZES)]
    text = segmenter.text_matrix(Vocabulary.model_validate(["cat", "dog", "sofa"]))
    maps = segmenter.score(encode_images(segmenter, images), text)
    levels = [level.cpu() for image in maps.levels for level in image]
    return levels + [one.cpu() for one in maps.objectness or ()]


@pytest.mark.parametrize("name", plugins.names(methods.PACKAGE))
def test_scores_on_the_gpu_equal_those_on_the_cpu(name: str) -> None:
    on_cpu = score_tensors(name, tiny_backbones())
    on_gpu = score_tensors(name, tiny_backbones(device="cuda"))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)
