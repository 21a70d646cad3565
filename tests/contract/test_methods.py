"""The contract of every method; a new file in the folder is tested by it without further work."""

import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor

from ovseg_core import methods
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import best_of_class
from ovseg_core.decision.decide import decide, decide_one
from ovseg_core.images.batch import Image
from ovseg_core.methods import build_segmenter, check_options, with_published_clip
from ovseg_core.segmenter import MethodCard, ScoreMaps, Segmenter, TextMatrix, encode_images
from schemas import plugins
from schemas.config import ClipConfig, ComputeConfig, JobConfig, NamedOptions
from schemas.errors import ConfigError, ErrorCode, ImageError
from schemas.vocabulary import Vocabulary
from tests.helpers.method_options import needed_options
from tests.helpers.tiny_models import TINY_CLIP, random_image, tiny_backbones, write_clip

WORDS = Vocabulary.model_validate(["cat", "dog", "sofa"])
NAMES = plugins.names(methods.PACKAGE)
GATES = {
    name: ("found", "none")
    for name in NAMES
    if "objectness" in plugins.load_plugin(methods.PACKAGE, name).Options.model_fields
}
GATED = [(name, {"objectness": gate}) for name, gates in GATES.items() for gate in gates]
BARE = [(name, {}) for name in NAMES if name not in GATES]
CASES = [pytest.param(name, options, id=f"{name}-{options}") for name, options in GATED + BARE]


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.fixture(scope="module")
def backbones_bf16() -> Backbones:
    return tiny_backbones(compute=ComputeConfig(precision="bf16"))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def segmenter(name: str, backbones: Backbones) -> Segmenter[Any]:
    return build(name, {}, backbones)


def build(name: str, options: dict[str, Any], backbones: Backbones) -> Segmenter[Any]:
    options = needed_options(name, backbones) | options
    return build_segmenter(NamedOptions(name=name, options=options), backbones)


def mixed_batch() -> list[Image]:
    """Sizes that repeat and differ, none square, none a multiple of a patch."""
    sizes = [(45, 60), (60, 45), (45, 60), (33, 70)]
    return [random_image(seed, height, width) for seed, (height, width) in enumerate(sizes)]


def sizes_of(images: list[Image]) -> list[tuple[int, int]]:
    return [(image.shape[1], image.shape[2]) for image in images]


def maps_of(segmenter: Segmenter[Any], images: list[Image], words: Vocabulary = WORDS) -> ScoreMaps:
    return segmenter.score(encode_images(segmenter, images), segmenter.text_matrix(words))


def tensors_of(maps: ScoreMaps, index: int) -> list[Tensor]:
    objectness = [] if maps.objectness is None else [maps.objectness[index]]
    return [*maps.levels[index], *objectness]


def class_scores(maps: ScoreMaps) -> list[Tensor]:
    """Image 0's levels (K, h, w); under a rule, where levels are of phrases, the best of each."""
    if maps.rule is None:
        return list(maps.levels[0])
    text = TextMatrix(torch.empty(0), maps.rule.class_index_Q, maps.rule.num_classes)
    return [best_of_class(level[None], text, absent=-1.0)[0] for level in maps.levels[0]]


def with_rows(text: TextMatrix, kept: Tensor) -> TextMatrix:
    """The text with some of its rows only, each of a class of its own."""
    values = {field.name: getattr(text, field.name) for field in fields(text)}
    rows = {name: value[kept] for name, value in values.items() if isinstance(value, Tensor)}
    own = {"class_index_Q": torch.arange(len(kept)), "num_classes": len(kept)}
    return replace(text, **{**rows, **own})


def assert_same(left: list[Tensor], right: list[Tensor], tolerance: float) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def test_card_is_complete(name: str) -> None:
    card = plugins.load_plugin(methods.PACKAGE, name).CARD
    assert isinstance(card, MethodCard)
    assert all((card.title, card.paper, card.arxiv, card.parts, card.weights, card.licence))
    assert all(0 < value < 100 for value in card.published.values())


def test_job_without_a_clip_gets_the_papers(name: str) -> None:
    job = {"images": "a", "out": "b", "labels": ["cat"], "method": name}
    clip = with_published_clip(JobConfig.model_validate(job)).clip
    assert clip.pretrained in open_clip.list_pretrained_tags_by_model(clip.model)
    own = JobConfig.model_validate({**job, "clip": {"model": "embedded"}})
    assert with_published_clip(own) is own
    half = JobConfig.model_validate({**job, "clip": {"pretrained": "openai"}})
    with pytest.raises(ConfigError, match=f"without clip.model.*clip.model={clip.model}"):
        with_published_clip(half)


def test_unknown_option_is_refused_with_a_near_name(name: str) -> None:
    option = sorted(plugins.load_plugin(methods.PACKAGE, name).Options.model_fields)[-1]
    with pytest.raises(
        ConfigError, match=rf"{option}e: unknown key; did you mean 'method\.options\.{option}'"
    ):
        check_options(NamedOptions(name=name, options={f"{option}e": "plain"}))


def test_unknown_method_is_refused_with_a_near_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean.*{name}"):
        check_options(NamedOptions(name=f"{name}x"))


def test_every_option_has_a_description(name: str) -> None:
    fields = plugins.load_plugin(methods.PACKAGE, name).Options.model_fields
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_scores_of_a_batch_equal_those_of_single_images(
    name: str, options: dict, backbones: Backbones
) -> None:
    segmenter = build(name, options, backbones)
    images = mixed_batch()
    together = maps_of(segmenter, images)
    assert len(together.levels) == len(images)
    for index, image in enumerate(images):
        alone = maps_of(segmenter, [image])
        assert_same(tensors_of(together, index), tensors_of(alone, 0), 1e-4)


def test_scores_differ_between_images(segmenter: Segmenter[Any]) -> None:
    maps = maps_of(segmenter, mixed_batch())
    first, _, third, _ = (maps.levels[index][-1] for index in range(4))
    assert first.shape == third.shape
    assert (first - third).abs().max() > 1e-4


def test_height_and_width_are_not_swapped(segmenter: Segmenter[Any]) -> None:
    """A wide image whose right half changes moves the scores of the right half most."""
    image = random_image(1, 45, 90)
    changed = image.clone()
    changed[:, :, 60:] = 255 - changed[:, :, 60:]
    maps = maps_of(segmenter, [image, changed])
    before, after = (maps.levels[index][-1] for index in range(2))
    change = (after - before).abs().sum(0)
    third = max(change.shape[1] // 3, 1)
    assert change[:, -third:].mean() > change[:, :third].mean()


def test_scores_are_deterministic(segmenter: Segmenter[Any]) -> None:
    images = mixed_batch()
    first, second = maps_of(segmenter, images), maps_of(segmenter, images)
    for index in range(len(images)):
        assert_same(tensors_of(first, index), tensors_of(second, index), 0.0)


def test_bf16_rounds_the_networks_alone(
    name: str, backbones: Backbones, backbones_bf16: Backbones
) -> None:
    """Features and scores stay float32 and near; the text rows are the same to the last bit."""
    images = mixed_batch()
    exact, rounded = (build(name, {}, it) for it in (backbones, backbones_bf16))
    before, after = maps_of(exact, images), maps_of(rounded, images)
    assert torch.equal(exact.text_matrix(WORDS).rows_QD, rounded.text_matrix(WORDS).rows_QD)
    largest = 0.0
    for index in range(len(images)):
        for one, other in zip(tensors_of(before, index), tensors_of(after, index), strict=True):
            assert other.dtype is torch.float32
            difference = (other - one).abs().max().item() / one.abs().max().item()
            largest = max(largest, difference)
    assert 0 < largest < 0.1


def test_other_labels_need_no_new_encoding(segmenter: Segmenter[Any]) -> None:
    images = mixed_batch()
    features = encode_images(segmenter, images)
    assert len(features) == len(images)
    other = Vocabulary.model_validate(["tree", "house"])
    again = segmenter.score(features, segmenter.text_matrix(other))
    fresh = maps_of(segmenter, images, other)
    for index in range(len(images)):
        assert_same(tensors_of(again, index), tensors_of(fresh, index), 0.0)
    kept = segmenter.score(features, segmenter.text_matrix(WORDS))
    assert_same(tensors_of(kept, 0), tensors_of(maps_of(segmenter, images), 0), 0.0)


@pytest.mark.parametrize("count", [1, 2000])
def test_scores_of_one_and_of_two_thousand_labels(segmenter: Segmenter[Any], count: int) -> None:
    things = [f"thing {number}" for number in range(count)]
    words = Vocabulary.model_validate({"labels": things, "templates": ["{}"]})
    images = mixed_batch()[:2]
    maps = maps_of(segmenter, images, words)
    assert all(level.shape[0] == count + 1 for level in maps.levels[0])
    assert decide_one(maps, 1, sizes_of(images)[1]).label_map.max() <= count


def test_synonym_never_lowers_the_score_of_its_label(segmenter: Segmenter[Any]) -> None:
    images = mixed_batch()[:2]
    features = encode_images(segmenter, images)
    words = [{"name": "cat", "synonyms": ["kitten", "tomcat"]}, "dog"]
    text = segmenter.text_matrix(Vocabulary.model_validate(words))
    assert text.class_index_Q.tolist() == [0, 1, 1, 1, 2]
    assert text.num_classes == 3
    best = segmenter.score(features, text)
    for phrase in range(1, 4):
        one = segmenter.score(features, with_rows(text, torch.tensor([0, phrase, 4])))
        if best.domain == "cosine":
            for level, reference in zip(class_scores(best), class_scores(one), strict=True):
                assert (level[1] >= reference[1] - 1e-6).all()
    assert all(level.shape[0] == 3 for level in class_scores(best))


def test_text_matrix_has_unit_rows_and_is_cached(segmenter: Segmenter[Any]) -> None:
    text = segmenter.text_matrix(WORDS)
    torch.testing.assert_close(text.rows_QD.norm(dim=1), torch.ones(4))
    assert segmenter.text_matrix(Vocabulary.model_validate(["cat", "dog", "sofa"])) is text
    assert segmenter.text_matrix(Vocabulary.model_validate(["cat"])) is not text


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (5, 3), (7, 200), (10, 20000), (20000, 10)])
def test_scores_of_odd_sizes_are_finite(segmenter: Segmenter[Any], size: tuple[int, int]) -> None:
    images = [random_image(0, *size), random_image(1, 40, 50)]
    maps = maps_of(segmenter, images)
    for index in range(len(images)):
        for tensor in tensors_of(maps, index):
            assert torch.isfinite(tensor).all()
    first, second = decide(maps, sizes_of(images))
    if maps.canvas_hw is None:
        assert first.label_map.shape == size
        assert second.label_map.shape == (40, 50)
    else:
        assert first.label_map.shape == second.label_map.shape == maps.canvas_hw


def test_scores_keep_to_their_domain(segmenter: Segmenter[Any]) -> None:
    maps = maps_of(segmenter, mixed_batch())
    levels = torch.cat([level.flatten() for image in maps.levels for level in image])
    low, high = {"cosine": (-1, 1), "score": (-torch.inf, torch.inf), "prob": (0, 1)}[maps.domain]
    assert low <= levels.min() <= levels.max() <= high + 1e-6
    assert torch.isfinite(levels).all()
    assert maps.logit_scale > 0
    assert (maps.objectness is None) == (maps.fusion == "none")
    for objectness in maps.objectness or ():
        assert 0 <= objectness.min() <= objectness.max() <= 1


@pytest.mark.parametrize("k", [0, 1])
def test_all_options_beyond_the_papers_together(name: str, k: int, backbones: Backbones) -> None:
    """The options of any window method work for all of them, in batches and alone."""
    beyond = {"outlier_repair": True, "global_attention": True, "pamr_steps": 2}
    known = plugins.load_plugin(methods.PACKAGE, name).Options.model_fields
    options = {key: value for key, value in beyond.items() if key in known}
    options |= {"top_k_labels": k} if "top_k_labels" in known else {}
    segmenter = build(name, options, backbones)
    images = mixed_batch()
    together = maps_of(segmenter, images)
    for index, decision in enumerate(decide(together, sizes_of(images))):
        assert_same(
            tensors_of(together, index), tensors_of(maps_of(segmenter, [images[index]]), 0), 1e-4
        )
        assert np.isfinite(decision.confidence).all()
        assert not k or "top_k_labels" not in known or decision.label_map.max() <= 3


def test_labels_that_clip_cannot_distinguish(
    name: str, backbones: Backbones, caplog: pytest.LogCaptureFixture
) -> None:
    """Names that differ after the end of CLIP's context only: a warning, and the first one wins."""
    long = "a very long name indeed that fills the whole context of the text tower with letters"
    words = Vocabulary.model_validate([f"{long} one", "dog", f"{long} two"])
    segmenter = build(name, {}, backbones)
    with caplog.at_level("WARNING"):
        maps = maps_of(segmenter, mixed_batch()[:2], words)
    assert "this CLIP cannot distinguish" in caplog.text
    for decision in decide(maps, sizes_of(mixed_batch()[:2])):
        assert not (decision.label_map == 3).any()


def test_no_hooks_and_no_global_state(
    segmenter: Segmenter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks: list[str] = []
    for kind in ("register_forward_hook", "register_forward_pre_hook", "__setattr__"):
        own = getattr(torch.nn.Module, kind)

        def counted(self, *given, _kind=kind, _own=own, **named):
            hooks.append(_kind)
            return _own(self, *given, **named)

        monkeypatch.setattr(torch.nn.Module, kind, counted)
    before = global_state()
    maps_of(segmenter, mixed_batch()[:2])
    assert hooks == []
    assert global_state() == before


def global_state() -> list[object]:
    return [
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    ]


def test_backbones_and_images_are_not_modified(
    segmenter: Segmenter[Any], backbones: Backbones
) -> None:
    networks = [backbones.clip.model, backbones.vision.model]
    before = [{key: value.clone() for key, value in one.state_dict().items()} for one in networks]
    images = mixed_batch()
    pixels = [image.clone() for image in images]
    maps_of(segmenter, images)
    for network, weights in zip(networks, before, strict=True):
        after = network.state_dict()
        assert after.keys() == weights.keys()
        assert all(torch.equal(after[key], weights[key]) for key in weights)
        for module in network.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(one, other) for one, other in zip(images, pixels, strict=True))


def test_scores_are_float32_without_gradient(segmenter: Segmenter[Any]) -> None:
    maps = maps_of(segmenter, mixed_batch()[:2])
    assert not any(tensor.requires_grad for tensor in tensors_of(maps, 0))
    assert all(tensor.dtype == torch.float32 for tensor in tensors_of(maps, 0))


def test_features_are_float32_on_the_methods_device(segmenter: Segmenter[Any]) -> None:
    features = encode_images(segmenter, mixed_batch()[:2])
    device = segmenter.text_matrix(WORDS).rows_QD.device
    found = list(tensors_in(features))
    assert found
    for tensor in found:
        assert tensor.dtype == torch.float32 or not tensor.is_floating_point()
        assert tensor.device == device
        assert not tensor.requires_grad


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield all tensors of a method's features, in dataclasses, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))
    elif isinstance(value, tuple):
        for inner in value:
            yield from tensors_in(inner)
    elif is_dataclass(value):
        yield from tensors_in(tuple(getattr(value, field.name) for field in fields(value)))


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Backbones:
    """Finite weights whose features overflow on images that are not of the mean colour."""
    vision = TINY_CLIP["vision_cfg"]
    huge = torch.full((vision["width"], 3, vision["patch_size"], vision["patch_size"]), 1e30)
    folder = tmp_path_factory.mktemp("overflowing")
    write_clip(folder, TINY_CLIP, {"visual.conv1.weight": huge})
    return tiny_backbones(clip=ClipConfig(model=f"local-dir:{folder}"))


@pytest.mark.parametrize("name", [*filter(methods.runs_by_name, NAMES)])
def test_features_that_are_not_finite_have_a_code(name: str, overflowing: Backbones) -> None:
    """The others read images by their own networks, not by CLIP: tests/unit/ovseg_core/methods."""
    segmenter = build(name, {}, overflowing)
    with pytest.raises(ImageError, match="features of this image are not finite") as caught:
        encode_images(segmenter, mixed_batch()[:2])
    assert caught.value.code is ErrorCode.NOT_FINITE
