"""Features that were stored on a machine with a GPU are scored on one, or without."""

from typing import Any

import pytest
import torch

from ovseg_core import methods
from ovseg_core.methods import build_segmenter
from ovseg_core.prediction.stored_features import pack_features, unpack_features
from ovseg_core.segmenter import Segmenter, encode_images
from schemas import plugins
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary
from tests.helpers.method_options import needed_options
from tests.helpers.tiny_models import random_image, tiny_backbones

IMAGES = [random_image(0, 45, 60), random_image(1, 60, 45)]
WORDS = Vocabulary.model_validate(["cat", "dog", "sofa"])


def built(name: str, device: str) -> Segmenter[Any]:
    backbones = tiny_backbones(device=device)
    options = needed_options(name, backbones) | {"proposals": "superpixels"}
    return build_segmenter(NamedOptions(name=name, options=options), backbones)


@pytest.mark.parametrize("name", plugins.names(methods.PACKAGE))
def test_features_of_the_gpu_are_scored_there_and_on_the_cpu(name: str) -> None:
    on_gpu, on_cpu = built(name, "cuda"), built(name, "cpu")
    data = pack_features(encode_images(on_gpu, IMAGES).image(1), "float16")
    stored = unpack_features(data, on_gpu, "cuda")
    assert pack_features(stored, "float16") == data
    there = on_gpu.score(stored, on_gpu.text_matrix(WORDS))
    here = on_cpu.score(unpack_features(data, on_cpu), on_cpu.text_matrix(WORDS))
    for level, expected in zip(there.levels[0], here.levels[0], strict=True):
        assert level.device.type == "cuda"
        torch.testing.assert_close(level.cpu(), expected, atol=5e-3, rtol=0)
