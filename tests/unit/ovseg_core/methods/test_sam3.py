"""SAM 3 as a method: its fusion, instances, background, gate, many words."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import Decision, decide
from ovseg_core.methods import build_segmenter
from ovseg_core.methods.sam3 import against_background, map_side
from ovseg_core.methods.shared.presence_gate import PresenceGate
from ovseg_core.segmenter import ScoreMaps, Segmenter, encode_images
from pipeline import open_run
from pipeline.annotate.shared_text import shared_text
from pipeline.job.job import run
from schemas.config import ClipConfig, JobConfig, MaskConfig, NamedOptions
from schemas.errors import ErrorCode, ImageError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_detectors import write_sam3
from tests.helpers.tiny_models import random_image, tiny_backbones

SIZES = [(60, 90), (150, 70), (90, 60)]
IMAGES = [random_image(seed, *size) for seed, size in enumerate(SIZES)]
LABELS = ["cat", "a yellow school bus", "grass"]
WORDS = Vocabulary.model_validate(LABELS)
NO_CLIP = ClipConfig(model="local-dir:/nowhere")
INSTANCES = MaskConfig(segments="instances")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_sam3(tmp_path_factory.mktemp("sam3-"))


def segmenter(weights: str, backbones: Backbones | None = None, **options: Any) -> Segmenter[Any]:
    """The method, without a gate unless options say otherwise."""
    options = {"weights": weights, "gate_min_presence": 0.0, **options}
    part = NamedOptions(name="sam3", options=options)
    return build_segmenter(part, backbones or tiny_backbones(clip=NO_CLIP), INSTANCES)


def maps_of(built: Segmenter[Any], words: Any = WORDS) -> ScoreMaps:
    vocabulary = Vocabulary.model_validate(words)
    return built.score(encode_images(built, IMAGES), built.text_matrix(vocabulary))


@torch.no_grad()
def of_library(weights: str, phrase: str) -> tuple[Any, Any]:
    """Return what the library's network says of a phrase in all images, and its processor."""
    from transformers import Sam3Model, Sam3Processor

    folder = weights.removeprefix("local-dir:")
    processor = Sam3Processor.from_pretrained(folder)
    read = processor(images=IMAGES, text=[phrase] * len(IMAGES), return_tensors="pt")
    read.pop("original_sizes")
    return Sam3Model.from_pretrained(folder).eval()(**read), processor


def fused_by_library(weights: str, phrase: str) -> Tensor:
    """SegEarth-OV3's map of a phrase in each image (B, M, M), from the library's outputs."""
    outputs, _ = of_library(weights, phrase)
    weighted = outputs.pred_masks.sigmoid() * outputs.pred_logits.sigmoid()[:, :, None, None]
    both = torch.maximum(weighted.amax(1), outputs.semantic_seg[:, 0].sigmoid())
    return both * outputs.presence_logits.sigmoid()[:, :, None]


def test_a_label_has_what_its_best_instance_or_the_pixels_say_times_its_presence(
    weights: str,
) -> None:
    maps = maps_of(segmenter(weights))
    for number, label in enumerate(LABELS, start=1):
        expected_BMM = fused_by_library(weights, label)
        for index, expected_MM in enumerate(expected_BMM):
            ours_MM = maps.levels[index][0][number]
            torch.testing.assert_close(ours_MM, expected_MM, atol=1e-4, rtol=0)


def test_instances_are_the_librarys(weights: str) -> None:
    maps = maps_of(segmenter(weights))
    assert maps.proposals is not None
    num_found = 0
    for number, label in enumerate(LABELS, start=1):
        outputs, processor = of_library(weights, label)
        expected = processor.post_process_instance_segmentation(
            outputs, threshold=0.5, target_sizes=SIZES
        )
        for index, theirs in enumerate(expected):
            ours = maps.proposals[index]
            assert ours.probs_NK is not None
            own = (ours.probs_NK.argmax(1) == number).nonzero()[:, 0]
            scores_N, order = theirs["scores"].sort(descending=True)
            torch.testing.assert_close(ours.probs_NK[own, number], scores_N, atol=1e-4, rtol=0)
            if len(own):  # the library leaves an empty stack at another size
                masks_NHW = ours.enlarged(SIZES[index])[own]
                same = (masks_NHW == theirs["masks"][order].bool()).float()
                assert same.mean() > 1 - 1e-4
            num_found += len(own)
    assert 0 < num_found < 3 * 3 * outputs.pred_logits.shape[1]


def test_instances_lie_in_their_images(weights: str) -> None:
    decisions = decide(maps_of(segmenter(weights, instance_threshold=0.4)), SIZES)
    for decision, size in zip(decisions, SIZES, strict=True):
        assert decision.instances is not None
        assert len(decision.instances.rles)
        assert set(decision.instances.labels.tolist()) <= {1, 2, 3}
        for rle in decision.instances.rles:
            left, top, width, height = rle.bbox_xywh
            assert 0 < rle.area_px <= width * height
            assert top + height <= size[0]
            assert left + width <= size[1]
        assert (decision.instances.columns["mean_prob"] > 0.4).all()


def test_a_word_without_instances(weights: str) -> None:
    maps = maps_of(segmenter(weights, instance_threshold=0.99))
    assert maps.proposals is not None
    assert [len(one) for one in maps.proposals] == [0, 0, 0]
    for decision in decide(maps, SIZES):
        assert decision.instances is not None
        assert not len(decision.instances.rles)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.55])
def test_a_pixel_has_its_label_from_the_threshold_on(weights: str, threshold: float) -> None:
    [label] = words = ["grass"]
    decisions = decide(maps_of(segmenter(weights, probability_threshold=threshold), words), SIZES)
    shares = []
    for decision, fused_MM, size in zip(
        decisions, fused_by_library(weights, label), SIZES, strict=True
    ):
        enlarged_HW = F.interpolate(fused_MM[None, None], size, mode="bilinear")[0, 0]
        assert (decision.label_map == (enlarged_HW > threshold).numpy()).mean() > 1 - 1e-3
        shares.append(float(decision.label_map.mean()))
    assert 0 < np.mean(shares) < 1


def test_without_a_threshold_every_pixel_has_a_label(weights: str) -> None:
    decisions = decide(maps_of(segmenter(weights, probability_threshold=0.0)), SIZES)
    assert all((decision.label_map > 0).all() for decision in decisions)


def test_scores_of_background_are_what_labels_leave() -> None:
    map_Khw = torch.tensor([[0.0, 0.8], [0.9, 0.3], [0.2, 0.0]])[:, None]
    half = against_background(map_Khw.clone(), 0.5)
    torch.testing.assert_close(half[:, 0].T, torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.0]]))
    for threshold, first in ((0.25, 0.1 / 3), (0.75, 0.1)):
        weighted = against_background(map_Khw.clone(), threshold)
        assert 0 <= weighted.min() <= weighted.max() <= 1
        torch.testing.assert_close(weighted[0, 0, 0], torch.tensor(first))


def test_background_phrases_compete_but_the_word_itself_is_not_asked_for(weights: str) -> None:
    built = segmenter(weights)
    plain = maps_of(built, {"labels": ["cat"], "background": []})
    literal = maps_of(built, {"labels": ["cat"], "background": ["background"]})
    named = maps_of(built, {"labels": ["cat"], "background": ["grass"]})
    grass_BMM = fused_by_library(weights, "grass")
    for index in range(len(IMAGES)):
        assert torch.equal(plain.levels[index][0], literal.levels[index][0])
        left_MM, named_MM = plain.levels[index][0][0], named.levels[index][0][0]
        expected_MM = torch.maximum(left_MM, grass_BMM[index])
        torch.testing.assert_close(named_MM, expected_MM, atol=1e-4, rtol=0)
    assert named.proposals is not None
    assert plain.proposals is not None
    assert [len(one) for one in named.proposals] == [len(one) for one in plain.proposals]


def test_competing_labels_lose_what_both_claim(weights: str) -> None:
    alone, both = (
        maps_of(segmenter(weights, competition=True, probability_threshold=0.0), words)
        for words in (["cat"], LABELS)
    )
    fused_BMM = fused_by_library(weights, "cat")
    others_BMM = torch.stack([fused_by_library(weights, label) for label in LABELS]).sum(0)
    for index in range(len(IMAGES)):
        torch.testing.assert_close(alone.levels[index][0][1], fused_BMM[index], atol=1e-4, rtol=0)
        torch.testing.assert_close(
            both.levels[index][0][1], fused_BMM[index] ** 2 / others_BMM[index], atol=1e-4, rtol=0
        )


def test_phrases_in_chunks_are_what_they_are_together(weights: str) -> None:
    words = [{"name": "cat", "synonyms": ["tabby", "tomcat"]}, "dog", "grass", "wall"]
    few = {"max_instances": 5, "instance_threshold": 0.3}
    together, alone = (
        maps_of(segmenter(weights, phrases_per_forward=number, **few), words) for number in (0, 1)
    )
    assert together.proposals is not None
    assert alone.proposals is not None
    for index in range(len(IMAGES)):
        torch.testing.assert_close(
            together.levels[index][0], alone.levels[index][0], atol=1e-5, rtol=0
        )
        one, other = together.proposals[index], alone.proposals[index]
        assert len(one) == len(other) == 5
        torch.testing.assert_close(one.probs_NK, other.probs_NK, atol=1e-5, rtol=0)


def test_one_of_two_thousand_words_is_what_it_is_alone(weights: str) -> None:
    things = [f"thing {number}" for number in range(2000)]
    built = segmenter(weights)
    features = encode_images(built, IMAGES[:2])
    maps = built.score(features, built.text_matrix(Vocabulary.model_validate(things)))
    alone = built.score(features, built.text_matrix(Vocabulary.model_validate(things[7:8])))
    for index in range(2):
        ours, expected = maps.levels[index][0][8], alone.levels[index][0][1]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_maps_of_many_words_are_coarser() -> None:
    assert [map_side(number, 288) for number in (2, 404, 2001, 1 << 30)] == [288, 288, 129, 1]


@pytest.fixture(scope="module")
def gated(weights: str) -> tuple[ScoreMaps, ScoreMaps, Tensor]:
    """Maps with a gate that lets half of the labels through, maps without, and which it lets."""
    backbones = tiny_backbones()
    probe = PresenceGate(backbones.clip, 0.5)
    presence_BK = probe.presence(probe.encode(IMAGES), probe.text_matrix(WORDS))
    least = float(presence_BK[:, 1:].median())
    maps = maps_of(segmenter(weights, backbones, gate_min_presence=least))
    return maps, maps_of(segmenter(weights)), presence_BK >= least


def test_labels_that_the_gate_stops_have_no_probability(
    gated: tuple[ScoreMaps, ScoreMaps, Tensor],
) -> None:
    maps, ungated, passes_BK = gated
    assert 0 < passes_BK[:, 1:].sum() < passes_BK[:, 1:].numel()
    decisions: list[Decision] = decide(maps, SIZES)
    for index in range(len(IMAGES)):
        level, full = maps.levels[index][0], ungated.levels[index][0]
        for number in range(1, 4):
            expected = full[number] * passes_BK[index, number]
            torch.testing.assert_close(level[number], expected, atol=1e-5, rtol=0)
            stopped = not passes_BK[index, number]
            assert (decisions[index].class_max_prob[number] == 0) == stopped
            instances = decisions[index].instances
            assert instances is not None
            assert not stopped or number not in instances.labels


def test_without_a_gate_no_clip_is_loaded(weights: str) -> None:
    backbones = tiny_backbones(clip=NO_CLIP)
    maps_of(segmenter(weights, backbones))
    assert set(backbones.files()) == {"sam3"}
    assert Path(backbones.files()["sam3"]).name == "model.safetensors"


def test_features_that_are_not_finite_have_a_code(tmp_path: Path) -> None:
    weights = write_sam3(tmp_path / "sam3")
    file = tmp_path / "sam3" / "model.safetensors"
    tensors = load_file(file)
    patch = "vision_encoder.backbone.embeddings.patch_embeddings.projection.weight"
    save_file(tensors | {patch: torch.full_like(tensors[patch], 1e38)}, file, {"format": "pt"})
    with pytest.raises(ImageError, match="features of this image are not finite") as caught:
        encode_images(segmenter(weights), IMAGES)
    assert caught.value.code is ErrorCode.NOT_FINITE


@pytest.mark.parametrize(("segments", "kind"), [("instances", "instance"), ("class", "class")])
def test_it_runs_as_a_job(weights: str, tmp_path: Path, segments: str, kind: str) -> None:
    (tmp_path / "images").mkdir()
    for number, image in enumerate(IMAGES):
        pixels = image.permute(1, 2, 0).numpy()
        PIL.Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    options = {"weights": weights, "instance_threshold": 0.4, "gate_min_presence": 0.05}
    job = JobConfig.model_validate(
        {
            "images": str(tmp_path / "images"),
            "out": str(tmp_path / "run"),
            "labels": LABELS,
            "method": {"name": "sam3", "options": options},
            "clip": {"model": "embedded"},
            "masks": {"segments": segments},
            "run": {"local": True, "device": "cpu"},
        }
    )
    report = run(job)
    assert (report.exit_code, report.errors) == (0, {})
    assert set(open_run(str(tmp_path / "run")).annotations()["kind"].to_pylist()) == {kind}


def test_workers_share_the_encoded_words(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path))
    for least in (0.0, 0.5):
        built = segmenter(weights, tiny_backbones(), gate_min_presence=least)
        text = built.text_matrix(WORDS)
        shared_text(lambda text=text: text, f"job-{least}", "cpu")
        read = shared_text(lambda: pytest.fail("encoded again"), f"job-{least}", "cpu")
        features = encode_images(built, IMAGES)
        expected, ours = built.score(features, text), built.score(features, read)
        for index in range(len(IMAGES)):
            assert torch.equal(ours.levels[index][0], expected.levels[index][0])


def test_class_masks_need_no_instances(weights: str) -> None:
    options = {"weights": weights, "gate_min_presence": 0.0}
    built = build_segmenter(NamedOptions(name="sam3", options=options), tiny_backbones())
    assert maps_of(built).proposals is None
