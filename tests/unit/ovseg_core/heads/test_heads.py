"""What the heads learn, against the losses restated; order, stop and go on."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovseg_core import heads
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.affinity import cosine_affinity
from ovseg_core.heads import HeadTask, build_head, check_head
from ovseg_core.heads.found import similarity_seeds
from ovseg_core.heads.shared import bilateral_solver
from ovseg_core.heads.shared.dinoiser_model import DinoiserHeads
from ovseg_core.heads.shared.trainer import HeadTrainer, ImageSampler
from ovseg_core.objectness import found, found_bkg
from schemas import plugins
from schemas.config import NamedOptions
from schemas.errors import ConfigError
from tests.helpers.tiny_models import random_image, tiny_backbones

NAMES = plugins.names(heads.PACKAGE)
SHORT = {"steps": 8, "batch": 2, "sample": 0}


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def _task(name: str, backbones: Backbones, **options: object) -> HeadTask:
    return build_head(NamedOptions(name=name, options={**SHORT, **options}), backbones, seed=3)


def _batch(task: HeadTask, seed: int = 0) -> list[torch.Tensor]:
    images = [random_image(seed, 40, 70), random_image(seed + 1, 66, 45)]
    return [task.view(image, np.random.default_rng([seed, n])) for n, image in enumerate(images)]


def test_views_are_squares_of_grey_levels_and_follow_their_random_numbers(
    name: str, backbones: Backbones
) -> None:
    task = _task(name, backbones)
    for seed, size in enumerate([(40, 70), (66, 45), (1, 3), (300, 20)]):
        image = random_image(seed, *size)
        one, again, other = (
            task.view(image, np.random.default_rng(number)) for number in (seed, seed, seed + 50)
        )
        assert one.shape == (3, task.size_px, task.size_px)
        assert 0 <= one.min() <= one.max() <= 255
        assert torch.equal(one, again)
        if min(size) > 1:
            assert not torch.equal(one, other)


def test_only_the_head_learns_and_the_loss_falls(name: str, backbones: Backbones) -> None:
    task = _task(name, backbones)
    networks = [backbones.clip.model, backbones.vision.model]
    before = [{k: v.clone() for k, v in one.state_dict().items()} for one in networks]
    random_state = torch.get_rng_state()
    trainer, batch = HeadTrainer(task), _batch(task)
    losses = [trainer.advance(batch) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert torch.equal(random_state, torch.get_rng_state())
    for network, weights in zip(networks, before, strict=True):
        assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())


def test_a_training_goes_on_to_the_same_bits(name: str, backbones: Backbones) -> None:
    whole, first, second = (HeadTrainer(_task(name, backbones)) for _ in range(3))
    batches = [_batch(_task(name, backbones), seed) for seed in range(6)]
    for batch in batches:
        whole.advance(batch)
    for batch in batches[:2]:
        first.advance(batch)
    second.restore(first.step, first.state())
    for batch in batches[2:]:
        second.advance(batch)
    assert second.step == whole.step == 6
    ours, theirs = second.state(), whole.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_seed_draws_the_first_weights(name: str, backbones: Backbones) -> None:
    part = NamedOptions(name=name, options=SHORT)
    one, same, other = (build_head(part, backbones, seed).weights for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_options_are_checked_and_described(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"head\.options\.stesp.*did you mean 'head.options.steps'"
    ):
        check_head(NamedOptions(name=name, options={"stesp": 3}))
    with pytest.raises(ConfigError, match="Did you mean"):
        check_head(NamedOptions(name=f"{name}s"))
    fields = plugins.load(heads.PACKAGE, name).Options.model_fields
    assert all(field.description for field in fields.values())


def _drawn(pixels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    images = pixels.permute(0, 2, 3, 1).numpy()
    solved = [bilateral_solver.refine(i, m.numpy()) for i, m in zip(images, masks, strict=True)]
    soft = torch.from_numpy(np.stack(solved)).float()[:, None]
    return (F.interpolate(soft, size=masks.shape[1:], mode="bilinear")[:, 0] > 0).float()


@pytest.mark.parametrize("step", [0, 5])
def test_founds_loss(backbones: Backbones, step: int) -> None:
    task = _task("found", backbones, seed_steps=5, size_px=64)
    pixels = torch.stack(_batch(task))
    state = backbones.vision.forward_trunk(pixels)
    head = found.FoundObjectness(backbones.vision, *task.weights.values(), max_side_px=0)
    with torch.no_grad():  # half of the patches are foreground
        task.weights["decoder.bias"] -= head.patch_logits(state).median()
        logits = head.patch_logits(state)[:, 0]
    own = (logits > 0).float()
    assert 0.4 < own.mean() < 0.6
    expected = 1.5 * F.binary_cross_entropy_with_logits(logits, _drawn(pixels, own))
    if step < 5:
        source = found_bkg.FoundBackground(backbones.vision, found_bkg.Options())
        seed = _drawn(pixels, 1 - source.background(state))
        expected += F.binary_cross_entropy_with_logits(logits, seed)
    else:
        expected += 4 * F.binary_cross_entropy_with_logits(logits, own)
    torch.testing.assert_close(task.loss(pixels, step), expected)
    assert task.learning_rate_factor(0) == 1
    assert task.learning_rate_factor(100) == pytest.approx(0.95**2)


def test_seeds_by_similarity_are_what_is_unlike_the_most_typical_patch() -> None:
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


def test_founds_first_targets_follow_the_seeds(backbones: Backbones) -> None:
    attention, similarity = (
        _task("found", backbones, seeds=seeds, size_px=64) for seeds in ("attention", "similarity")
    )
    pixels = torch.stack(_batch(attention))
    assert attention.loss(pixels, 0) != similarity.loss(pixels, 0)
    assert attention.loss(pixels, 100) == similarity.loss(pixels, 100)


def test_dinoisers_loss(backbones: Backbones) -> None:
    task = _task("dinoiser", backbones)
    pixels = torch.stack(_batch(task))
    clip, vision = backbones.clip, backbones.vision
    state = clip.forward_trunk_from_pixels(pixels, "size", [-3])
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


def test_every_epoch_holds_every_image_once_in_another_order() -> None:
    draws = ImageSampler(7, 0, seed=1)
    epochs = [[draws.index(place) for place in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = ImageSampler(7, 0, seed=1)
    backwards = [again.index(place) for place in range(20, -1, -1)]
    assert backwards[::-1] == [*epochs[0], *epochs[1], *epochs[2]]
    assert draws.rng(3).random() == again.rng(3).random() != draws.rng(4).random()


def test_a_sample_is_drawn_with_replacement_as_numpy_does() -> None:
    draws = ImageSampler(50, 20, seed=0)
    epoch = [draws.index(place) for place in range(20)]
    assert sorted(epoch) == sorted(np.random.RandomState(0).choice(np.arange(50), 20).tolist())
    assert len(set(epoch)) < 20
