"""FOUND's training: the loss restated, and the seed masks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovseg_core.backbones.registry import Backbones
from ovseg_core.objectness import found, found_bkg
from ovseg_core.training.heads.found import similarity_seeds
from ovseg_core.training.heads.shared import bilateral_solver
from tests.helpers.head_tasks import head_task, head_views
from tests.helpers.tiny_models import tiny_backbones


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


def _refined(pixels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    images = pixels.permute(0, 2, 3, 1).numpy()
    solved = [bilateral_solver.refine(i, m.numpy()) for i, m in zip(images, masks, strict=True)]
    soft = torch.from_numpy(np.stack(solved)).float()[:, None]
    return (F.interpolate(soft, size=masks.shape[1:], mode="bilinear")[:, 0] > 0).float()


@pytest.mark.parametrize("step", [0, 5])
def test_loss_equals_the_published_formula(backbones: Backbones, step: int) -> None:
    task = head_task("found", backbones, seed_steps=5, size_px=64)
    pixels = torch.stack(head_views(task))
    state = backbones.vision.forward_trunk(pixels)
    head = found.FoundObjectness(backbones.vision, *task.weights.values(), max_side_px=0)
    with torch.no_grad():  # half of the patches are foreground
        task.weights["decoder.bias"] -= head.patch_logits(state).median()
        logits = head.patch_logits(state)[:, 0]
    own = (logits > 0).float()
    assert 0.4 < own.mean() < 0.6
    expected = 1.5 * F.binary_cross_entropy_with_logits(logits, _refined(pixels, own))
    if step < 5:
        source = found_bkg.FoundBackground(backbones.vision, found_bkg.Options())
        seed = _refined(pixels, 1 - source.background(state))
        expected += F.binary_cross_entropy_with_logits(logits, seed)
    else:
        expected += 4 * F.binary_cross_entropy_with_logits(logits, own)
    torch.testing.assert_close(task.loss(pixels, step), expected)
    assert task.learning_rate_factor(0) == 1
    assert task.learning_rate_factor(100) == pytest.approx(0.95**2)


def test_similarity_seeds_are_patches_unlike_the_most_typical_one() -> None:
    """Two images of other backgrounds; the object takes a quarter of the patches, with noise."""
    generator = torch.Generator().manual_seed(1)
    ground, thing = torch.randn((2, 2, 8, 1, 1), generator=generator).unbind(0)
    inside = torch.zeros((2, 1, 8, 10), dtype=torch.bool)
    inside[0, :, 2:6, 3:8] = True
    inside[1, :, 0:4, 0:5] = True
    keys = torch.where(inside, thing, ground) + 0.1 * torch.randn(
        (2, 8, 8, 10), generator=generator
    )
    assert torch.equal(similarity_seeds(keys), inside[:, 0])


def test_seeds_option_changes_the_first_targets_only(backbones: Backbones) -> None:
    attention, similarity = (
        head_task("found", backbones, seeds=seeds, size_px=64)
        for seeds in ("attention", "similarity")
    )
    pixels = torch.stack(head_views(attention))
    assert attention.loss(pixels, 0) != similarity.loss(pixels, 0)
    assert attention.loss(pixels, 100) == similarity.loss(pixels, 100)
