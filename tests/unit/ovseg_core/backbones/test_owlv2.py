"""OWLv2 by transformers: boxes, scores and phrases as the library's own processor has them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ovseg_core.backbones.owlv2 import Owlv2
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder, templates_of
from schemas.config import ClipConfig
from schemas.errors import WeightsError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_detectors import write_owlv2
from tests.helpers.tiny_models import random_image
from tests.helpers.tiny_sams import write_sam

SIZES = [(60, 90), (150, 70), (90, 60)]
IMAGES = [random_image(seed, *size) for seed, size in enumerate(SIZES)]
WORDS = Vocabulary.model_validate(
    ["cat", {"name": "dog", "synonyms": ["a puppy"]}, "a very long name of an old sofa"]
)
OPTION = "method.options.detector"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owlv2")
    write_owlv2(folder)
    return folder


def loaded(name: str) -> Owlv2:
    return Backbones(ClipConfig(), "").owlv2(name, OPTION)


@pytest.fixture(scope="module")
def owlv2(folder: Path) -> Owlv2:
    return loaded(f"local-dir:{folder}")


def test_boxes_and_scores_are_the_librarys(folder: Path, owlv2: Owlv2) -> None:
    from transformers import AutoProcessor, Owlv2ForObjectDetection

    model = Owlv2ForObjectDetection.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    text = TextEncoder(owlv2, templates_of("diy")).matrix(WORDS)
    phrases = ["background", "cat", "dog", "a puppy", "a very long name of an old sofa"]
    read = processor(
        text=[[f"a photo of a {phrase}" for phrase in phrases]] * len(IMAGES),
        images=IMAGES,
        return_tensors="pt",
        truncation=True,
    )
    with torch.no_grad():
        outputs = model(**read)
        encoded = owlv2.encode(IMAGES)
        threshold = float(outputs.logits.amax(-1).sigmoid().median())
        expected = processor.post_process_grounded_object_detection(
            outputs, threshold=threshold, target_sizes=SIZES
        )
        for index, theirs in enumerate(expected):
            features_NC = encoded.features_BNC[index]
            scores_N, rows_N = owlv2.best_phrases(features_NC, text.rows_QD)
            kept = scores_N > threshold
            torch.testing.assert_close(scores_N[kept], theirs["scores"], atol=1e-4, rtol=0)
            assert rows_N[kept].tolist() == theirs["labels"].tolist()
            boxes_N4 = encoded.boxes_BN4[index][kept]
            torch.testing.assert_close(boxes_N4, theirs["boxes"], atol=1e-2, rtol=1e-4)
            all_NQ = owlv2.scores(features_NC, text.rows_QD)
            torch.testing.assert_close(all_NQ, outputs.logits[index].sigmoid(), atol=1e-4, rtol=0)
    assert 0 < sum(len(theirs["scores"]) for theirs in expected) < outputs.logits[..., 0].numel()


def test_an_image_in_a_batch_is_what_it_is_alone(owlv2: Owlv2) -> None:
    with torch.no_grad():
        together = owlv2.encode(IMAGES)
        for index, image in enumerate(IMAGES):
            alone = owlv2.encode([image])
            torch.testing.assert_close(
                together.boxes_BN4[index], alone.boxes_BN4[0], atol=1e-3, rtol=0
            )
            torch.testing.assert_close(
                together.features_BNC[index], alone.features_BNC[0], atol=1e-4, rtol=0
            )


def test_a_patch_of_a_narrow_image_has_its_box_there(owlv2: Owlv2) -> None:
    """Boxes start at their patch: those of the lower patches of a tall image lie below."""
    with torch.no_grad():
        boxes_N4 = owlv2.encode([random_image(0, 180, 40), random_image(1, 40, 180)]).boxes_BN4
    side = 6
    centres = ((boxes_N4[..., :2] + boxes_N4[..., 2:]) / 2).unflatten(1, (side, side))
    assert centres[0, -1, :, 1].min() > centres[0, 0, :, 1].max() + 60
    assert centres[1, :, -1, 0].min() > centres[1, :, 0, 0].max() + 60


def test_what_is_no_owlv2_is_refused(folder: Path, tmp_path: Path) -> None:
    sam = write_sam(tmp_path / "sam")
    with pytest.raises(WeightsError, match=f"{OPTION}: .*of the kind 'sam', expected OWLv2"):
        loaded(sam)
    with pytest.raises(WeightsError, match="such as hf-hub:google/owlv2-base-patch16-ensemble"):
        loaded("owlv2")


def test_a_tokenizer_that_is_missing_or_anothers_is_refused(folder: Path, tmp_path: Path) -> None:
    bare, other = tmp_path / "bare", tmp_path / "other"
    for copy in (bare, other):
        shutil.copytree(folder, copy)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (bare / name).unlink(missing_ok=True)
    with pytest.raises(WeightsError, match=f"{OPTION}: the tokenizer of .*there is no vocabulary"):
        loaded(f"local-dir:{bare}")
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {token: number + 9 for token, number in vocabulary.items()}
    for token in content["added_tokens"]:
        token["id"] = content["model"]["vocab"].get(token["content"], token["id"])
    (other / "tokenizer.json").write_text(json.dumps(content))
    detector = loaded(f"local-dir:{other}")
    with pytest.raises(WeightsError, match="it is the tokenizer of another CLIP"):
        detector.encode_text(["a photo of a cat"])
