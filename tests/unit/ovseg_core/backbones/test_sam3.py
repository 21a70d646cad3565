"""SAM 3 by transformers: masks, scores and boxes as the library's own processor has them."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.sam3 import EncodedImages, FoundObjects, Sam3
from schemas.config import ClipConfig
from schemas.errors import ConfigError, WeightsError
from tests.helpers.tiny_detectors import write_owlv2, write_sam3
from tests.helpers.tiny_models import random_image

SIZES = [(60, 90), (150, 70), (90, 60)]
IMAGES = [random_image(seed, *size) for seed, size in enumerate(SIZES)]
PHRASES = ["cat", "a yellow school bus", "grass"]
OPTION = "method.options.weights"


@pytest.fixture(scope="module", params=["image", "video"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"sam3-{request.param}-")
    write_sam3(folder, as_video=request.param == "video")
    return folder


@pytest.fixture(scope="module")
def sam3(folder: Path) -> Sam3:
    return loaded(folder)


def loaded(folder: Path) -> Sam3:
    return Backbones(ClipConfig(), "").sam3(f"local-dir:{folder}", OPTION)


def found(sam3: Sam3, encoded: EncodedImages, index: int) -> FoundObjects:
    return sam3.find(encoded, index, sam3.encode_text(PHRASES))


@torch.no_grad()
def of_library(folder: Path, phrase: str) -> tuple[Any, Any]:
    """Return what the library's network says of a phrase in all images, and its processor."""
    from transformers import Sam3Model, Sam3Processor

    processor = Sam3Processor.from_pretrained(folder)
    read = processor(images=IMAGES, text=[phrase] * len(IMAGES), return_tensors="pt")
    read.pop("original_sizes")
    return Sam3Model.from_pretrained(folder).eval()(**read), processor


def at_image(logits_NMM: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits_NMM[None].sigmoid(), size, mode="bilinear")[0]


@pytest.mark.parametrize("number", range(len(PHRASES)))
def test_instances_are_the_librarys(folder: Path, sam3: Sam3, number: int) -> None:
    outputs, processor = of_library(folder, PHRASES[number])
    all_scores = outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid()
    threshold = float(all_scores.median())
    expected = processor.post_process_instance_segmentation(
        outputs, threshold=threshold, target_sizes=SIZES
    )
    with torch.no_grad():
        encoded = sam3.encode(IMAGES)
        for index, theirs in enumerate(expected):
            ours = found(sam3, encoded, index)
            scores_R = ours.scores_PR[number] * ours.presence_P[number]
            torch.testing.assert_close(scores_R, all_scores[index], atol=1e-4, rtol=0)
            kept = scores_R > threshold
            boxes_R4 = ours.boxes_PR4[number] * torch.tensor(SIZES[index]).flip(0).repeat(2)
            torch.testing.assert_close(boxes_R4[kept], theirs["boxes"], atol=1e-2, rtol=1e-4)
            logits_RMM = ours.masks_PRMM[number]
            torch.testing.assert_close(logits_RMM, outputs.pred_masks[index], atol=1e-4, rtol=1e-4)
            masks_RHW = at_image(logits_RMM[kept], SIZES[index]) > 0.5
            assert (masks_RHW == theirs["masks"].bool()).float().mean() > 1 - 1e-4
    assert 0 < sum(len(theirs["scores"]) for theirs in expected) < all_scores.numel()


@pytest.mark.parametrize("number", range(len(PHRASES)))
def test_pixels_of_a_phrase_are_the_librarys(folder: Path, sam3: Sam3, number: int) -> None:
    outputs, processor = of_library(folder, PHRASES[number])
    expected = processor.post_process_semantic_segmentation(
        outputs, target_sizes=SIZES, return_segmentation_scores=True
    )
    with torch.no_grad():
        encoded = sam3.encode(IMAGES)
        for index, theirs in enumerate(expected):
            ours = found(sam3, encoded, index)
            probs_1HW = at_image(ours.semantic_PMM[number : number + 1], SIZES[index])
            torch.testing.assert_close(
                probs_1HW, theirs.segmentation_scores, atol=1e-4, rtol=0, check_stride=False
            )
            presence = outputs.presence_logits[index, 0].sigmoid()
            torch.testing.assert_close(ours.presence_P[number], presence, atol=1e-4, rtol=0)


def test_an_image_and_a_phrase_are_what_they_are_alone(sam3: Sam3) -> None:
    with torch.no_grad():
        together = found(sam3, sam3.encode(IMAGES), 1)
        alone = sam3.find(sam3.encode(IMAGES[1:2]), 0, sam3.encode_text(PHRASES[2:]))
    for name in ("masks_PRMM", "scores_PR", "boxes_PR4", "semantic_PMM", "presence_P"):
        one, other = getattr(together, name)[2], getattr(alone, name)[0]
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_long_phrase_ends_where_the_network_ends(
    sam3: Sam3, caplog: pytest.LogCaptureFixture
) -> None:
    long = "a yellow school bus that stands before a very old house"
    with torch.no_grad():
        read = sam3.encode_text([long, "bus"])
    assert read.is_token_PL.sum(dim=1).tolist() == [32, 5]
    assert "reads 32 tokens of a prompt; the end is cut off of 'a yellow" in caplog.text


def test_without_transformers_5_it_is_said_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = r': pip install "ovseg\[sam\]"'
    for version in ("4.57.1", "6.0.0"):
        monkeypatch.setattr("transformers.__version__", version)
        with pytest.raises(ConfigError, match=f"SAM 3 needs transformers 5, this is {version}"):
            loaded(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=f"SAM 3 needs transformers{advice}"):
        loaded(folder)


def test_what_is_no_sam_3_is_refused(tmp_path: Path) -> None:
    write_owlv2(tmp_path / "owlv2")
    with pytest.raises(WeightsError, match=f"{OPTION}: .*of the kind 'owlv2', expected SAM 3"):
        loaded(tmp_path / "owlv2")
    with pytest.raises(WeightsError, match=r"such as hf-hub:facebook/sam3.*got 'sam3'"):
        Backbones(ClipConfig(), "").sam3("sam3", OPTION)


def test_a_tracker_alone_is_refused(tmp_path: Path) -> None:
    """A folder whose configuration promises a detector that its weights do not have."""
    from safetensors.torch import load_file, save_file

    write_sam3(tmp_path / "video", as_video=True)
    file = tmp_path / "video" / "model.safetensors"
    tracker = {key: it for key, it in load_file(file).items() if key.startswith("tracker_model.")}
    save_file({**tracker, "filler": torch.zeros(200_000)}, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"\d+ of its tensors are missing, such as detr_decoder"):
        loaded(tmp_path / "video")


def test_a_tokenizer_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {token: number + 9 for token, number in vocabulary.items()}
    for token in content["added_tokens"]:
        token["id"] = content["model"]["vocab"].get(token["content"], token["id"])
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="it is the tokenizer of another CLIP"):
        loaded(other).encode_text(["cat"])
