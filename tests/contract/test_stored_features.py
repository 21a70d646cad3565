"""Every method's features, image by image, as bytes and back; new methods are tested at once."""

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from ovseg_core import methods
from ovseg_core.backbones.registry import Backbones, ScoringBackbones
from ovseg_core.decision.decide import decide_one
from ovseg_core.images.batch import Image
from ovseg_core.methods import build_segmenter, feature_options, needed_files
from ovseg_core.prediction.stored_features import FeaturePrecision, pack_features, unpack_features
from ovseg_core.segmenter import ScoreMaps, Segmenter, encode_images
from schemas import plugins
from schemas.config import JobConfig, MaskConfig, NamedOptions
from schemas.errors import ConfigError
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
OWN_NETWORKS = {"student": {"student"}, "owlv2_sam2": {"owlv2", "sam"}, "sam3": {"sam3"}}
IMAGES = [random_image(seed, *size) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


def build(name: str, options: dict[str, Any], backbones: Backbones) -> Segmenter[Any]:
    options = needed_options(name, backbones) | options
    return build_segmenter(named(name, options), backbones, masks_for(options))


def named(name: str, options: dict[str, Any]) -> NamedOptions:
    return NamedOptions(name=name, options=options)


def masks_for(options: dict[str, Any]) -> MaskConfig:
    return MaskConfig(segments="instances" if "proposals" in options else "class")


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


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_method_without_its_image_networks_scores_the_same(
    name: str, options: dict[str, Any], backbones: Backbones
) -> None:
    """All of them but CLIP's are nowhere; a method whose `score` asks its own has these."""
    whole = build(name, options, backbones)
    features = encode_images(whole, IMAGES).image(1)
    blind = ScoringBackbones(backbones.clip_config, "local-dir:/nowhere", "/nowhere/vit.pt")
    own = needed_options(name, backbones)
    scorer = build_segmenter(named(name, own | options), blind, masks_for(options))
    data = pack_features(features, "float16")
    with torch.inference_mode():
        before = whole.score(unpack_features(data, whole), whole.text_matrix(WORDS))
        after = scorer.score(unpack_features(data, scorer), scorer.text_matrix(WORDS))
    for level, kept in zip(before.levels[0], after.levels[0], strict=True):
        assert torch.equal(level, kept)
    assert torch.equal(label_map(before, 0, IMAGES[1]), label_map(after, 0, IMAGES[1]))
    with pytest.raises(ConfigError, match="without the networks that look at images"):
        encode_images(scorer, IMAGES)
    networks = OWN_NETWORKS.get(name, {"clip"})
    assert blind.files().keys() - {"clip"} == networks - {"clip"}
    config = JobConfig.model_validate(
        {
            "images": "a",
            "out": "b",
            "labels": ["cat"],
            "clip": backbones.clip_config,
            "vision": {"model": "local-dir:/nowhere"},
            "method": named(name, own | options),
        }
    )
    needed = needed_files(config, lambda path: path, sees_images=False)
    assert len({file.option for file in needed} - {"clip.model"}) == len(networks - {"clip"})


MARKED = [
    (name, option)
    for name in NAMES
    for option in sorted(plugins.load_plugin(methods.PACKAGE, name).Options.score_only())
]
OTHER_VALUES = (True, False, 0.25, 0.75, 3, 50.0, "t80", "imagenet", "template", "empty", "tokens")
OTHER_VALUES += ("channels", "diy")


def other_value(name: str, option: str, own: dict[str, Any]) -> Any:
    """A valid value that is not the option's default."""
    model = plugins.load_plugin(methods.PACKAGE, name).Options
    usual = getattr(model.model_validate(own), option)
    for value in OTHER_VALUES:
        with suppress(ValueError):
            found = getattr(model.model_validate(own | {option: value}), option)
            if found != usual and type(found) is type(usual):
                return value
    raise AssertionError(f"add a value of {name}'s {option} to OTHER_VALUES")


@pytest.mark.parametrize(("name", "option"), MARKED)
def test_an_option_that_is_marked_changes_no_features(
    name: str, option: str, backbones: Backbones
) -> None:
    beyond = {key: value for key, value in BEYOND.items() if key in FIELDS[name]}
    own = needed_options(name, backbones) | beyond
    changed = own | {option: other_value(name, option, own)}
    assert feature_options(named(name, own)) == feature_options(named(name, changed))
    before, after = (
        encode_images(build(name, options, backbones), IMAGES) for options in (own, changed)
    )
    for index in range(len(IMAGES)):
        data = pack_features(before.image(index), "float16")
        assert pack_features(after.image(index), "float16") == data


def test_options_of_features_name_all_of_the_others() -> None:
    """Nested parts and defaults are spelled out, as any of them can change a feature."""
    part = {"name": "found", "options": {"max_side_px": 300}}
    options = feature_options(named("sclip", {"objectness": part, "logit_scale": 7}))
    assert options["method.name"] == "sclip"
    assert options["method.options.objectness"] == "found"
    assert options["method.options.objectness.options.max_side_px"] == 300
    assert options["method.options.objectness.options.head"] == ""
    assert options["method.options.window_px"] is None
    assert "method.options.logit_scale" not in options
    assert "method.options.templates" not in options
    refined = {"refine_masks": True, "proposals": "sam"}
    with pytest.raises(ConfigError, match=r"method\.options\.refine_masks: SAM looks at the im"):
        feature_options(named("sclip", refined))


def test_mark_holds_for_defaults_of_subclasses() -> None:
    for name in ("clearclip", "maskclip", "clip_surgery"):
        assert "logit_scale" in plugins.load_plugin(methods.PACKAGE, name).Options.score_only()
