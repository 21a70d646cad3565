"""A trained student as a method: its words, its background, sizes, numbers that overflow."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ovseg_core.backbones.file_formats.head_file import file_bytes, read_record
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder, templates_of
from ovseg_core.decision.decide import decide
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import ScoreMaps, Segmenter, encode_images
from ovseg_core.training.students.shared.student_file import load_student
from schemas.config import ClipConfig, NamedOptions
from schemas.errors import ConfigError, ErrorCode, ImageError, VocabularyError
from schemas.vocabulary import Vocabulary
from tests.helpers.students import TINY_STUDENT, WORDS, write_student
from tests.helpers.tiny_models import random_image, tiny_backbones

CLOSED = NamedOptions(
    name="text_fusion",
    options={"backbone": "test_efficientnet_gn", "width": 16, "heads": 2},
)
NO_CLIP = ClipConfig(model="local-dir:/nowhere")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("student") / "a.safetensors", tiny_backbones())


def student(file: Path, backbones: Backbones | None = None, **options: Any) -> Segmenter[Any]:
    part = NamedOptions(name="student", options={"weights": str(file), **options})
    return build_segmenter(part, backbones or tiny_backbones())


def scores(segmenter: Segmenter[Any], words: Vocabulary, *sizes_hw: tuple[int, int]) -> ScoreMaps:
    images = [random_image(seed, *size_hw) for seed, size_hw in enumerate(sizes_hw)]
    return segmenter.score(encode_images(segmenter, images), segmenter.text_matrix(words))


def test_words_of_the_training_need_no_clip_in_any_order(file: Path) -> None:
    segmenter = student(file, tiny_backbones(clip=NO_CLIP))
    ours = segmenter.text_matrix(WORDS)
    turned = segmenter.text_matrix(Vocabulary(labels=WORDS.labels[::-1]))
    assert turned.class_index_Q.tolist() == [0, 1, 1, 2]
    assert torch.equal(turned.rows_QD, ours.rows_QD[[0, 2, 3, 1]])


def test_new_words_are_embedded_by_the_clip_of_the_training(file: Path) -> None:
    words = Vocabulary.model_validate(["dog", "sofa"])
    backbones = tiny_backbones()
    expected = TextEncoder(backbones.clip, templates_of("plain")).matrix(words)
    torch.testing.assert_close(student(file).text_matrix(words).rows_QD, expected.rows_QD)


def test_another_clip_is_refused_for_new_words_by_its_name(file: Path) -> None:
    segmenter = student(file, tiny_backbones(clip=NO_CLIP))
    with pytest.raises(ConfigError, match=r"'sofa' is new to this student.*--set clip\.model="):
        segmenter.text_matrix(Vocabulary.model_validate(["cat", "sofa"]))


def test_a_closed_set_refuses_new_words_and_names_near_ones(tmp_path: Path) -> None:
    file = write_student(tmp_path / "closed.safetensors", tiny_backbones(), CLOSED)
    segmenter = student(file)
    assert segmenter.text_matrix(WORDS).num_classes == 3
    with pytest.raises(VocabularyError, match=r"no output for 'dogs'.*id you mean 'dog'"):
        segmenter.text_matrix(Vocabulary.model_validate(["cat", "dogs"]))
    with pytest.raises(VocabularyError, match="the vocabulary of its training as it was"):
        segmenter.text_matrix(Vocabulary.model_validate(["dog", "cat"]))


def test_a_background_without_phrases_never_wins(tmp_path: Path) -> None:
    words = Vocabulary.model_validate({"labels": ["cat", "dog"], "background": []})
    file = write_student(tmp_path / "two.safetensors", tiny_backbones(), words=words)
    maps = scores(student(file), words, (60, 90), (64, 48))
    for decision in decide(maps, [(60, 90), (64, 48)]):
        assert (decision.label_map > 0).all()
        assert decision.class_mean_prob[0] == 0
        assert decision.class_mean_prob.sum() == pytest.approx(1)


def test_probabilities_are_those_that_the_loss_trains(file: Path) -> None:
    """Enlarged logits of the best phrase of each class, then softmax: synonyms do not compete."""
    trained = load_student(file)
    maps = scores(student(file), WORDS, (64, 96), (64, 96))
    images = torch.stack([random_image(seed, 64, 96) for seed in range(2)]).float()
    background, cat, dog, puppy = trained.network(images, trained.text.rows_QD).unbind(1)
    logits = torch.stack([background, cat, torch.maximum(dog, puppy)], 1)
    enlarged = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)
    for decision, expected in zip(
        decide(maps, [(64, 96), (64, 96)]), enlarged.softmax(1), strict=True
    ):
        confidence = torch.from_numpy(decision.confidence)
        torch.testing.assert_close(confidence, expected.amax(0), rtol=1e-4, atol=1e-5)
        assert (decision.label_map == expected.argmax(0).numpy()).mean() > 0.999


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (33, 7), (97, 130)])
def test_every_size_gets_a_label_map(file: Path, size_hw: tuple[int, int]) -> None:
    maps = scores(student(file), WORDS, size_hw, size_hw)
    for decision in decide(maps, [size_hw, size_hw]):
        assert decision.label_map.shape == size_hw


def test_large_images_are_read_at_the_longest_side_that_is_allowed(file: Path) -> None:
    maps = scores(student(file, max_side_px=64), WORDS, (300, 150), (40, 20))
    assert [tuple(level.shape[1:]) for (level,) in maps.levels] == [(16, 8), (10, 5)]


def test_without_another_limit_it_is_the_one_of_the_training(tmp_path: Path) -> None:
    part = NamedOptions(
        name=TINY_STUDENT.name, options={**TINY_STUDENT.options, "max_side_px": 128}
    )
    file = write_student(tmp_path / "small.safetensors", tiny_backbones(), part)
    segmenter = student(file)
    assert segmenter.decode_side_px == 128
    (level,) = scores(segmenter, WORDS, (300, 150)).levels[0]
    assert tuple(level.shape[1:]) == (32, 16)


def test_features_that_are_not_finite_have_a_code(file: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    (last,) = (name for name in tensors if name.endswith("head.smooth.4.weight"))
    tensors[last] = tensors[last] * 1e38
    large = tmp_path / "large.safetensors"
    large.write_bytes(file_bytes(tensors, read_record(file)))
    segmenter = student(large)
    with pytest.raises(ImageError) as caught:
        encode_images(segmenter, [random_image(0, 64, 96), random_image(1, 64, 96)])
    assert caught.value.code is ErrorCode.NOT_FINITE


def test_the_students_file_is_part_of_the_run(file: Path) -> None:
    backbones = tiny_backbones(clip=NO_CLIP)
    student(file, backbones)
    assert backbones.files() == {"student": str(file)}
