"""Which labels an image may show, by CLIP."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.quality import embedded_backbones
from benchmarks.world import labelled_scene
from ovseg_core.methods.clip_diy import Options, build
from ovseg_core.methods.shared.presence_gate import PresenceGate
from ovseg_core.segmenter import encode_images
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

IMAGES = [random_image(0, 40, 64), random_image(1, 64, 40)]
WORDS = Vocabulary.model_validate(
    {"labels": [{"name": "cat", "synonyms": ["kitten", "tabby"]}, "dog"], "background": ["wall"]}
)


@pytest.fixture(scope="module")
def gate() -> PresenceGate:
    return PresenceGate(tiny_backbones().clip, 0.5)


def test_presence_is_that_of_the_surest_crop_and_phrase(gate: PresenceGate) -> None:
    text = gate.text_matrix(WORDS)
    presence_BK = gate.presence(gate.encode(IMAGES), text)
    diy = build(Options(objectness="none"), tiny_backbones())
    crops_BND = encode_images(diy, IMAGES).crops_BND
    cosines_BNQ = F.normalize(crops_BND, dim=-1) @ text.rows_QD.T
    highest_BQ = (tiny_backbones().clip.logit_scale * cosines_BNQ).softmax(-1).amax(1)
    expected_BK = torch.stack(
        [highest_BQ[:, text.class_index_Q == k].amax(1) for k in range(3)], dim=1
    )
    torch.testing.assert_close(presence_BK, expected_BK, atol=1e-5, rtol=0)


def test_an_image_passes_the_same_alone(gate: PresenceGate) -> None:
    text = gate.text_matrix(WORDS)
    together = gate.presence(gate.encode(IMAGES), text)
    alone = torch.cat([gate.presence(gate.encode([image]), text) for image in IMAGES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_without_a_least_presence_all_labels_pass() -> None:
    every = PresenceGate(tiny_backbones().clip, 0.0)
    passes_BK = every.passes(every.encode(IMAGES), every.text_matrix(WORDS))
    assert passes_BK.tolist() == [[True, True, True]] * 2


def test_a_vocabulary_needs_no_background(gate: PresenceGate) -> None:
    text = gate.text_matrix(Vocabulary.model_validate({"labels": ["cat"], "background": []}))
    assert gate.passes(gate.encode(IMAGES), text).tolist() == [[True, True]] * 2


@pytest.mark.parametrize("group", ["one", "many", "small"])
def test_drawn_objects_pass_and_most_other_words_do_not(group: str) -> None:
    gate = PresenceGate(embedded_backbones().clip, 0.5)
    scenes = [labelled_scene(group, number, "development", 20) for number in (2, 5)]
    for scene in scenes:
        vocabulary = Vocabulary.model_validate(list(scene.labels))
        image = torch.from_numpy(scene.scene.image).permute(2, 0, 1).contiguous()
        passes_K = gate.passes(gate.encode([image]), gate.text_matrix(vocabulary))[0]
        found = {
            scene.labels[number - 1] for number in passes_K.nonzero().flatten().tolist() if number
        }
        assert found >= set(scene.scene.labels)
        assert len(found) < 10
