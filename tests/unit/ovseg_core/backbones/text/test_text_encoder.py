"""From a vocabulary to unit rows."""

import re

import pytest
import torch
import torch.nn.functional as F

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder, best_of_class, templates_of
from ovseg_core.segmenter import TextMatrix
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import tiny_backbones


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


def _embed(backbones: Backbones, *prompts: str) -> torch.Tensor:
    return F.normalize(backbones.clip.encode_text(prompts), dim=-1)


@pytest.mark.parametrize(("name", "count"), [("diy", 1), ("plain", 1), ("t80", 80), ("t85", 85)])
def test_templates_of_gives_published_sets(name: str, count: int) -> None:
    templates = templates_of(name)
    assert len(set(templates)) == count
    assert all(template.count("{}") == 1 for template in templates)


def test_templates_of_gives_published_texts() -> None:
    assert templates_of("diy") == ("a photo of a {}",)
    assert templates_of("t85")[:80] == templates_of("t80")
    assert templates_of("t85")[-1] == "this is one {} in the scene."


def test_row_is_the_normalised_mean_of_normalised_prompts(backbones: Backbones) -> None:
    bank = TextEncoder(backbones.clip, ("a {}", "the {} there"), ("{}",))
    text = bank.matrix(Vocabulary.model_validate(["cat", "dog"]))
    expected = torch.cat(
        [
            _embed(backbones, "background"),
            F.normalize(_embed(backbones, "a cat", "the cat there").mean(0, keepdim=True), dim=-1),
            F.normalize(_embed(backbones, "a dog", "the dog there").mean(0, keepdim=True), dim=-1),
        ]
    )
    torch.testing.assert_close(text.rows_QD, expected)
    assert text.class_index_Q.tolist() == [0, 1, 2]
    assert text.num_classes == 3


def test_templates_of_a_label_take_precedence(backbones: Backbones) -> None:
    vocabulary = Vocabulary.model_validate(
        {
            "labels": [{"name": "cat", "templates": ["my {}"]}, "dog"],
            "templates": ["one {}"],
            "background": ["sky", "grass"],
        }
    )
    text = TextEncoder(backbones.clip, ("a photo of a {}",)).matrix(vocabulary)
    prompts = ["a photo of a sky", "a photo of a grass", "my cat", "one dog"]
    torch.testing.assert_close(text.rows_QD, _embed(backbones, *prompts))
    assert text.class_index_Q.tolist() == [0, 0, 1, 2]


def test_no_background_phrases_give_no_background_rows(backbones: Backbones) -> None:
    vocabulary = Vocabulary.model_validate({"labels": ["cat"], "background": []})
    text = TextEncoder(backbones.clip, ("{}",)).matrix(vocabulary)
    assert text.class_index_Q.tolist() == [1]
    assert text.num_classes == 2


def test_many_prompts_are_embedded_in_batches(backbones: Backbones) -> None:
    words = [f"word {number}" for number in range(300)]
    text = TextEncoder(backbones.clip, ("{}",)).matrix(Vocabulary.model_validate(words))
    torch.testing.assert_close(text.rows_QD[[1, 300]], _embed(backbones, words[0], words[299]))


def test_best_of_class_takes_rows_in_any_order_and_gives_their_gradients() -> None:
    """Classes 1 and 4 have no rows."""
    index_Q = torch.tensor([3, 0, 2, 3, 3, 2])
    text = TextMatrix(torch.zeros(6, 1), index_Q, 5)
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 6, 3, 4, generator=random).requires_grad_()
    best = best_of_class(rows, text, absent=-7.0)
    plain = [rows[:, index_Q == k].amax(1) for k in (0, 2, 3)]
    assert torch.equal(best[:, [0, 2, 3]], torch.stack(plain, dim=1))
    assert (best[:, [1, 4]] == -7).all()
    weights = torch.randn(2, 5, 3, 4, generator=random)
    (ours,) = torch.autograd.grad((best * weights).sum(), rows)
    expected = (torch.stack(plain, dim=1) * weights[:, [0, 2, 3]]).sum()
    assert torch.equal(ours, torch.autograd.grad(expected, rows)[0])


def test_best_of_class_is_the_maximum_over_phrases() -> None:
    text = TextMatrix(torch.zeros((4, 2)), torch.tensor([1, 1, 3, 3]), 4)
    rows = torch.tensor([0.1, 0.7, -0.9, -0.4]).view(1, 4, 1, 1).expand(2, 4, 2, 3)
    best = best_of_class(rows, text, absent=-1.0)
    assert best.shape == (2, 4, 2, 3)
    expected = torch.tensor([-1.0, 0.7, -1.0, -0.4])
    torch.testing.assert_close(best[1, :, 1, 2], expected)


def test_phrase_is_embedded_once(backbones: Backbones) -> None:
    asked: list[str] = []

    class Noted:
        device = backbones.clip.device
        weights_file = backbones.clip.weights_file

        def encode_text(self, prompts: list[str]) -> torch.Tensor:
            asked.extend(prompts)
            return backbones.clip.encode_text(prompts)

    bank = TextEncoder(Noted(), ("a {}", "the {} there"), ("{}",))
    bank.matrix(Vocabulary.model_validate(["cat", "dog"]))
    asked.clear()
    changed = bank.matrix(Vocabulary.model_validate(["dog", "fish", "cat"]))
    assert asked == ["a fish", "the fish there"]
    fresh = TextEncoder(backbones.clip, ("a {}", "the {} there"), ("{}",))
    expected = fresh.matrix(Vocabulary.model_validate(["dog", "fish", "cat"]))
    torch.testing.assert_close(changed.rows_QD, expected.rows_QD)


def test_label_over_the_context_is_said(
    backbones: Backbones, caplog: pytest.LogCaptureFixture
) -> None:
    """The tiny CLIP reads 16 tokens: those of start and end, and about one a letter."""
    bank = TextEncoder(backbones.clip, ("a {}",))
    bank.matrix(Vocabulary.model_validate(["cat", "dog"]))
    assert not caplog.messages
    bank.matrix(Vocabulary.model_validate(["cat", "hippopotamuses", "xylophones and zithers"]))
    [line] = [it for it in caplog.messages if "is cut off" in it]
    assert "reads 16 tokens" in line
    names = re.findall(r"'a ([a-z ]+)' \((\d+)\)", line)
    assert [name for name, _ in names] == ["xylophones and zithers", "hippopotamuses"]
    assert int(names[0][1]) > int(names[1][1]) > 16
