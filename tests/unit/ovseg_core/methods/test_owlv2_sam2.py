"""OWLv2 and SAM 2 as a method: the library's boxes and masks, and instances from them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from ovseg_core.decision.decide import decide
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.methods import build_segmenter
from ovseg_core.methods.owlv2_sam2 import Owlv2Sam2
from ovseg_core.methods.shared.presence_gate import PresenceGate
from ovseg_core.segmenter import ScoreMaps, encode_images
from pipeline import open_run
from pipeline.job.job import run
from schemas.config import JobConfig, MaskConfig, NamedOptions
from schemas.errors import ConfigError, ErrorCode, ImageError, WeightsError
from schemas.records import Annotation
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_detectors import write_owlv2
from tests.helpers.tiny_models import random_image, tiny_backbones
from tests.helpers.tiny_sams import write_sam

SIZES = [(60, 90), (150, 70), (48, 33)]
IMAGES = [random_image(seed, *size) for seed, size in enumerate(SIZES)]
WORDS = Vocabulary.model_validate(["cat", {"name": "dog", "synonyms": ["a puppy"]}, "sofa"])
CLASSES = torch.tensor([0, 1, 2, 2, 3])
"""Of the phrases, of which `background` is the first."""
INSTANCES = MaskConfig(segments="instances")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("networks")
    return {"detector": write_owlv2(folder / "owlv2"), "sam": write_sam(folder / "sam2", "sam2")}


def built(networks: dict[str, str], **options: Any) -> Owlv2Sam2:
    given = {"gate_min_presence": 0.0, **networks, **options}
    part = NamedOptions(name="owlv2_sam2", options=given)
    method = build_segmenter(part, tiny_backbones(), INSTANCES)
    assert isinstance(method, Owlv2Sam2)
    return method


def maps_of(method: Owlv2Sam2, words: Vocabulary = WORDS) -> ScoreMaps:
    return method.score(encode_images(method, IMAGES), method.text_matrix(words))


def segments_of(maps: ScoreMaps) -> list[tuple[Annotation, ...]]:
    return [
        image_rows(decision, size, WORDS.names, INSTANCES).segments
        for decision, size in zip(decide(maps, SIZES), SIZES, strict=True)
    ]


def best_score(networks: dict[str, str]) -> float:
    """Return the highest score of any label in any box of the images."""
    found = maps_of(built(networks, box_threshold=0.0, nms_iou=1.0)).proposals
    assert found is not None
    return max(float(one.probs_NK.max()) for one in found if one.probs_NK is not None)


@pytest.mark.parametrize("nms_iou", [1.0, 0.5])
def test_boxes_scores_and_masks_are_the_librarys(networks: dict[str, str], nms_iou: float) -> None:
    from transformers import AutoProcessor, Owlv2ForObjectDetection, Sam2Model, Sam2Processor

    detector, sam = (name.removeprefix("local-dir:") for name in networks.values())
    processor = AutoProcessor.from_pretrained(detector)
    phrases = ["background", "cat", "dog", "a puppy", "sofa"]
    read = processor(
        text=[[f"a photo of a {phrase}" for phrase in phrases]] * len(IMAGES),
        images=IMAGES,
        return_tensors="pt",
        truncation=True,
    )
    with torch.no_grad():
        outputs = Owlv2ForObjectDetection.from_pretrained(detector).eval()(**read)
    boxes_of = processor.post_process_grounded_object_detection(
        outputs, threshold=0.4, target_sizes=SIZES
    )
    masks_of = Sam2Processor.from_pretrained(sam)
    segment_anything = Sam2Model.from_pretrained(sam).eval()

    method = built(networks, box_threshold=0.4, nms_iou=nms_iou)
    features = encode_images(method, IMAGES)
    text = method.text_matrix(WORDS)
    found = method.score(features, text).proposals
    assert found is not None
    for index, (theirs, ours) in enumerate(zip(boxes_of, found, strict=True)):
        labels = CLASSES[theirs["labels"]]
        boxes = clip_boxes_to_image(theirs["boxes"], SIZES[index])
        in_image = (boxes[:, 2:] > boxes[:, :2]).all(1)  # others lie in the padding
        taken = in_image & (labels > 0)
        boxes, scores, labels = boxes[taken], theirs["scores"][taken], labels[taken]
        kept = batched_nms(boxes, scores, labels, nms_iou)
        prompts = masks_of(
            images=IMAGES[index].permute(1, 2, 0).numpy(),
            input_boxes=[boxes[kept].tolist()],
            return_tensors="pt",
        )
        with torch.no_grad():
            expected = segment_anything(**prompts, multimask_output=False)
        assert len(kept) == len(ours) > 1
        assert ours.probs_NK is not None
        best, classes = ours.probs_NK.max(1)
        assert classes.tolist() == labels[kept].tolist()
        torch.testing.assert_close(best, scores[kept], atol=1e-4, rtol=0)
        ours_N4 = method.boxes(features.patches, index, text).boxes_N4
        torch.testing.assert_close(ours_N4, boxes[kept], atol=1e-4, rtol=1e-4)
        ious = expected.iou_scores[0, :, 0].clamp(0, 1)
        torch.testing.assert_close(ours.scores_N, ious, atol=1e-4, rtol=0)
        logits = expected.pred_masks[0, :, 0]
        torch.testing.assert_close(ours.masks_Nhw, logits, atol=1e-4, rtol=1e-4)
        (enlarged,) = masks_of.post_process_masks(
            expected.pred_masks, prompts["original_sizes"], binarize=False
        )
        clear = enlarged[:, 0].abs() > 1e-4
        assert torch.equal(ours.enlarged(SIZES[index])[clear], (enlarged[:, 0] > 0)[clear])
        assert clear.float().mean() > 0.99


@pytest.mark.parametrize("sam", ["sam2", "embedded"])
def test_an_image_has_the_same_instances_alone_and_in_a_batch(
    networks: dict[str, str], sam: str
) -> None:
    given = networks if sam == "sam2" else networks | {"sam": sam}
    method = built(given, box_threshold=0.4)
    together = maps_of(method).proposals
    assert together is not None
    for image, expected in zip(IMAGES, together, strict=True):
        alone = method.score(encode_images(method, [image]), method.text_matrix(WORDS)).proposals
        assert alone is not None
        torch.testing.assert_close(alone[0].masks_Nhw, expected.masks_Nhw, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(alone[0].probs_NK, expected.probs_NK, atol=1e-4, rtol=0)


def test_a_segment_has_the_score_of_its_box_and_the_quality_of_its_mask(
    networks: dict[str, str],
) -> None:
    maps = maps_of(built(networks, box_threshold=0.4))
    assert maps.proposals is not None
    for segments, found in zip(segments_of(maps), maps.proposals, strict=True):
        assert segments
        assert found.probs_NK is not None
        pairs = zip(found.probs_NK.amax(1).tolist(), found.scores_N.tolist(), strict=True)
        known = {(round(score, 5), round(quality, 5)) for score, quality in pairs}
        for segment in segments:
            assert segment.kind == "instance"
            assert (round(segment.mean_prob, 5), round(segment.proposal_score, 5)) in known


def test_the_label_map_is_what_instances_cover(networks: dict[str, str]) -> None:
    maps = maps_of(built(networks, box_threshold=0.4))
    assert maps.proposals is not None
    for (level_Khw,), found in zip(maps.levels, maps.proposals, strict=True):
        covered_hw = (found.masks_Nhw > 0).any(0)
        assert torch.equal(level_Khw.argmax(0) > 0, covered_hw)
        assert covered_hw.any()
        torch.testing.assert_close(level_Khw[0], 1 - level_Khw[1:].amax(0))


def test_no_two_boxes_of_a_label_overlap_more_than_they_may(networks: dict[str, str]) -> None:
    method = built(networks, box_threshold=0.02, nms_iou=0.3)
    features, text = encode_images(method, IMAGES), method.text_matrix(WORDS)
    for index in range(len(IMAGES)):
        found = method.boxes(features.patches, index, text)
        best_N, labels_N = found.scores_NK.max(1)
        assert (best_N.diff() <= 0).all()
        alike = labels_N[:, None] == labels_N
        assert box_iou(found.boxes_N4, found.boxes_N4).fill_diagonal_(0)[alike].max() <= 0.3
        height, width = SIZES[index]
        assert found.boxes_N4.min() >= 0
        assert (found.boxes_N4.amax(0) <= torch.tensor([width, height, width, height])).all()


def test_the_best_boxes_stay_where_there_are_too_many(networks: dict[str, str]) -> None:
    many, few = (
        maps_of(built(networks, box_threshold=0.02, max_boxes=number)).proposals
        for number in (100, 2)
    )
    assert many is not None
    assert few is not None
    for all_, best in zip(many, few, strict=True):
        assert len(best) == 2 < len(all_)
        torch.testing.assert_close(best.probs_NK, all_.probs_NK[:2])


def test_images_without_any_instance_are_background(networks: dict[str, str]) -> None:
    maps = maps_of(built(networks, box_threshold=1.0))
    assert segments_of(maps) == [(), (), ()]
    for decision in decide(maps, SIZES):
        assert not decision.label_map.any()
        assert decision.class_max_prob[1:].max() == 0


def test_a_label_without_an_instance_is_absent(networks: dict[str, str]) -> None:
    """Only the surest box of all is left, in one image and of one label."""
    threshold = best_score(networks) - 1e-5
    maps = maps_of(built(networks, box_threshold=threshold, nms_iou=1.0))
    found = [segment for segments in segments_of(maps) for segment in segments]
    assert len(found) == 1
    for decision in decide(maps, SIZES):
        seen = np.flatnonzero(decision.class_max_prob[1:] > 0) + 1
        assert set(seen.tolist()) <= {found[0].category_id}


def test_what_looks_like_background_most_is_no_instance(networks: dict[str, str]) -> None:
    words = Vocabulary.model_validate({"labels": ["cat"], "background": ["cat", "dog", "sofa"]})
    method = built(networks, box_threshold=0.02)
    features = encode_images(method, IMAGES)
    for index in range(len(IMAGES)):
        text = method.text_matrix(words)
        assert not len(method.boxes(features.patches, index, text).boxes_N4)


def test_only_labels_that_clip_sees_are_searched_for(networks: dict[str, str]) -> None:
    """The tiny CLIP gives each image and label another presence; the gate stands among them."""
    gate = PresenceGate(tiny_backbones().clip, 0.0)
    presence_BK = gate.presence(gate.encode(IMAGES), gate.text_matrix(WORDS))[:, 1:]
    least = float(presence_BK.median()) + 1e-6
    maps = maps_of(built(networks, box_threshold=0.02, gate_min_presence=least))
    plain = maps_of(built(networks, box_threshold=0.02))
    assert maps.proposals is not None
    for passes_K, (level_Khw,), found, (plain_Khw,) in zip(
        presence_BK >= least, maps.levels, maps.proposals, plain.levels, strict=True
    ):
        assert not level_Khw[1:][~passes_K].any()
        assert (level_Khw[1:][passes_K] > 0).flatten(1).any(1).all()
        assert plain_Khw[1:].flatten(1).any(1).all()
        assert found.probs_NK is not None
        assert not found.probs_NK[:, 1:][:, ~passes_K].any()
    none = maps_of(built(networks, box_threshold=0.02, gate_min_presence=1.0))
    assert segments_of(none) == [(), (), ()]


def test_without_background_phrases_the_gate_may_leave_nothing(networks: dict[str, str]) -> None:
    words = Vocabulary.model_validate({"labels": ["cat", "dog"], "background": []})
    method = built(networks, gate_min_presence=1.0)
    assert [len(one) for one in maps_of(method, words).proposals or ()] == [0, 0, 0]


def test_five_thousand_words_in_maps_of_bounded_size(networks: dict[str, str]) -> None:
    things = [f"thing {number}" for number in range(5000)]
    words = Vocabulary.model_validate({"labels": things, "templates": ["{}"]})
    method = built(networks | {"sam": "embedded"}, box_threshold=0.4)
    features = encode_images(method, IMAGES)
    small = method.score(features, method.text_matrix(WORDS)).levels
    maps = method.score(features, method.text_matrix(words))
    for (level_Khw,) in maps.levels:
        assert level_Khw.numel() <= 1 << 24
        assert (level_Khw.argmax(0) > 0).any()
    assert maps.levels[0][0].shape[1] < small[0][0].shape[1]


@pytest.mark.parametrize("sam", ["sam2", "embedded"])
def test_images_smaller_than_a_patch_are_taken(networks: dict[str, str], sam: str) -> None:
    given = networks if sam == "sam2" else networks | {"sam": sam}
    sizes = [(1, 1), (1, 40), (5, 3), (2, 900)]
    images = [random_image(seed, *size) for seed, size in enumerate(sizes)]
    method = built(given, box_threshold=0.02)
    maps = method.score(encode_images(method, images), method.text_matrix(WORDS))
    for decision, size in zip(decide(maps, sizes), sizes, strict=True):
        rows = image_rows(decision, size, WORDS.names, INSTANCES)
        assert all(0 < one.area_px <= size[0] * size[1] for one in rows.segments)


def test_other_words_need_no_look_at_the_image(networks: dict[str, str]) -> None:
    method = built(networks, box_threshold=0.4)
    features = encode_images(method, IMAGES)
    first = method.text_matrix(WORDS)
    assert method.text_matrix(WORDS) is first
    other = Vocabulary.model_validate(["tree", "house"])
    again = method.score(features, method.text_matrix(other)).proposals
    fresh = maps_of(method, other).proposals
    assert again is not None
    assert fresh is not None
    for one, two in zip(again, fresh, strict=True):
        assert torch.equal(one.masks_Nhw, two.masks_Nhw)


def test_numbers_that_overflow_have_a_code(networks: dict[str, str], tmp_path: Path) -> None:
    name = write_owlv2(tmp_path / "owlv2")
    file = tmp_path / "owlv2" / "model.safetensors"
    tensors = load_file(file)
    patch = "owlv2.vision_model.embeddings.patch_embedding.weight"
    save_file(tensors | {patch: torch.full_like(tensors[patch], 1e30)}, file, {"format": "pt"})
    method = built(networks | {"detector": name})
    with pytest.raises(ImageError, match="features of this image are not finite") as caught:
        encode_images(method, IMAGES)
    assert caught.value.code is ErrorCode.NOT_FINITE


def test_networks_that_are_missing_or_of_another_family_are_refused(
    networks: dict[str, str], tmp_path: Path
) -> None:
    advice = r"hf download google/owlv2-\S+ .* --set method\.options\.detector=local-dir:FOLDER"
    with pytest.raises(WeightsError, match=advice):
        built(networks | {"detector": f"local-dir:{tmp_path}"})
    swapped = {"detector": networks["sam"], "sam": networks["detector"]}
    with pytest.raises(WeightsError, match=r"options\.detector: .*'sam2', expected OWLv2"):
        built(networks | {"detector": swapped["detector"]})
    with pytest.raises(WeightsError, match=r"options\.sam: .*'owlv2', expected SAM or SAM 2"):
        built(networks | {"sam": swapped["sam"]})
    with pytest.raises(WeightsError, match=r"options\.detector: expected hf-hub:ORG/REPO .*'embe"):
        built(networks | {"detector": "embedded"})


def test_without_transformers_it_is_said_what_to_install(
    networks: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'OWLv2 needs transformers: pip install "ovseg\[sam\]"'):
        built(networks)


@pytest.mark.parametrize(("segments", "kind"), [("instances", "instance"), ("class", "class")])
def test_it_runs_as_a_job(
    networks: dict[str, str], tmp_path: Path, segments: str, kind: str
) -> None:
    options = {"box_threshold": 0.4, "gate_min_presence": 0.05}
    (tmp_path / "images").mkdir()
    for number, image in enumerate(IMAGES[:2]):
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    job = JobConfig.model_validate(
        {
            "images": str(tmp_path / "images"),
            "out": str(tmp_path / "run"),
            "labels": list(WORDS.names),
            "method": {"name": "owlv2_sam2", "options": networks | options},
            "clip": {"model": "embedded"},
            "masks": {"segments": segments},
            "run": {"local": True, "device": "cpu"},
        }
    )
    report = run(job)
    assert (report.exit_code, report.errors) == (0, {})
    kinds = set(open_run(str(tmp_path / "run")).annotations()["kind"].to_pylist())
    assert kinds == {kind}
