"""CLIP-DINOiser's training: the loss restated."""

import pytest
import torch
import torch.nn.functional as F

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.affinity import cosine_affinity
from ovseg_core.objectness import found
from ovseg_core.training.heads.shared.dinoiser_model import DinoiserHeads
from tests.helpers.head_tasks import head_task, head_views
from tests.helpers.tiny_models import tiny_backbones, trunk_of_pixels


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


def test_loss_equals_the_published_formula(backbones: Backbones) -> None:
    task = head_task("dinoiser", backbones)
    pixels = torch.stack(head_views(task))
    clip, vision = backbones.clip, backbones.vision
    state = trunk_of_pixels(clip, pixels, [-3])
    tap = state.ln2[-3][:, 1:].transpose(1, 2).unflatten(2, state.grid_hw)
    learned = DinoiserHeads(*(weight.detach() for weight in task.weights.values()))
    values = vision.features_of(vision.forward_trunk(pixels), "v")
    values = F.interpolate(values, size=state.grid_hw, mode="bilinear")
    together = (cosine_affinity(values) >= 0.2).float()
    assert 0 < together.mean() < 1
    foreground = found.build(found.Options(), backbones).patch_probabilities(pixels)
    foreground = F.interpolate(foreground, size=state.grid_hw, mode="bilinear") > 0.5
    assert 0 < foreground.float().mean() < 1
    affinity = cosine_affinity(learned.guide(tap)).clamp(min=0)
    expected = F.binary_cross_entropy_with_logits(affinity, together)
    expected += F.binary_cross_entropy_with_logits(learned.objectness(tap), foreground.float())
    torch.testing.assert_close(task.loss(pixels, 0), expected)
    assert task.learning_rates["obj_proj.weight"] == 5e-5
    assert task.learning_rates["bkg_decoder.bias"] == 1e-2
    assert (task.learning_rate_factor(4999), task.learning_rate_factor(5000)) == (1.0, 0.1)
