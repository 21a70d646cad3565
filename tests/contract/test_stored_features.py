"""Every method's features, image by image, as bytes and back; new methods are tested at once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg_core import methods
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide_one
from ovseg_core.images.batch import Image
from ovseg_core.methods import build_segmenter
from ovseg_core.prediction.stored_features import FeaturePrecision, pack_features, unpack_features
from ovseg_core.segmenter import ScoreMaps, Segmenter, encode_images
from schemas import plugins
from schemas.config import MaskConfig, NamedOptions
from schemas.vocabulary import Vocabulary
from tests.helpers.method_options import needed_options
from tests.helpers.tiny_models import random_image, tiny_backbones

WORDS = Vocabulary.model_validate({"labels": ["cat", "dog", "sofa"], "background": ["wall"]})
NAMES = plugins.names(methods.PACKAGE)
FIELDS = {name: plugins.load_plugin(methods.PACKAGE, name).Options.model_fields for name in NAMES}
BEYOND: dict[str, Any] = {
    "proposals": "superpixels",
    "pamr_steps": 2,
    "top_k_labels": 2,
    "global_attention": True,
    "objectness": "found",
    "key_smoothing_threshold": 0.5,
    "adjust": "surgery",
    "gate_min_presence": 0.4,
}
"""Options that add something to the features."""
LIMITED = {"limited_attention": True, "proposals": "superpixels"}
CASES = [(name, {}) for name in NAMES]
CASES += [
    (name, {key: value for key, value in BEYOND.items() if key in FIELDS[name]}) for name in NAMES
]
CASES += [(name, LIMITED) for name in NAMES if "limited_attention" in FIELDS[name]]
IDS = [f"{name}-{'-'.join(options)}" for name, options in CASES]
SIZES = [(45, 60), (60, 45), (45, 60), (33, 70)]
IMAGES = [random_image(seed, *size) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


def build(name: str, options: dict[str, Any], backbones: Backbones) -> Segmenter[Any]:
    options = needed_options(name, backbones) | options
    segments = "instances" if "proposals" in options else "class"
    masks = MaskConfig.model_validate({"segments": segments})
    return build_segmenter(NamedOptions(name=name, options=options), backbones, masks)


def label_map(maps: ScoreMaps, index: int, image: Image) -> Tensor:
    size_hw = image.shape[1], image.shape[2]
    return torch.from_numpy(decide_one(maps, index, size_hw).label_map.astype("int64"))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_one_image_of_a_batch_is_scored_alone(
    name: str, options: dict[str, Any], backbones: Backbones
) -> None:
    segmenter = build(name, options, backbones)
    features, text = encode_images(segmenter, IMAGES), segmenter.text_matrix(WORDS)
    together = segmenter.score(features, text)
    for index, image in enumerate(IMAGES):
        one = features.image(index)
        assert len(one) == 1
        alone = segmenter.score(one, text)
        for level, of_batch in zip(alone.levels[0], together.levels[index], strict=True):
            torch.testing.assert_close(level, of_batch, atol=1e-6, rtol=0)
        assert torch.equal(label_map(alone, 0, image), label_map(together, index, image))


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.998), ("int8", 0.99)])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_stored_features_give_the_same_labels(
    name: str,
    options: dict[str, Any],
    precision: FeaturePrecision,
    least: float,
    backbones: Backbones,
) -> None:
    segmenter = build(name, options, backbones)
    features, text = encode_images(segmenter, IMAGES), segmenter.text_matrix(WORDS)
    equal = []
    for index, image in enumerate(IMAGES):
        one = features.image(index)
        data = pack_features(one, precision)
        stored = unpack_features(data, segmenter)
        assert type(stored) is type(one)
        assert pack_features(stored, precision) == data
        before, after = segmenter.score(one, text), segmenter.score(stored, text)
        equal.append(label_map(before, 0, image) == label_map(after, 0, image))
    assert torch.cat([one.flatten() for one in equal]).float().mean() >= least
