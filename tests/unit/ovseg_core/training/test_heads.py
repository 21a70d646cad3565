"""What every trainable head does: views, losses that fall, exact resume, options."""

import numpy as np
import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.training import heads
from ovseg_core.training.heads import build_head, check_head
from ovseg_core.training.heads.shared.trainer import HeadTrainer
from schemas import plugins
from schemas.config import NamedOptions
from schemas.errors import ConfigError
from tests.helpers.head_tasks import SHORT_SCHEDULE, head_task, head_views
from tests.helpers.tiny_models import random_image, tiny_backbones

NAMES = plugins.names(heads.PACKAGE)


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_views_are_squares_determined_by_their_random_numbers(
    name: str, backbones: Backbones
) -> None:
    task = head_task(name, backbones)
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


def test_training_changes_only_the_head_and_lowers_the_loss(
    name: str, backbones: Backbones
) -> None:
    task = head_task(name, backbones)
    networks = [backbones.clip.model, backbones.vision.model]
    before = [{k: v.clone() for k, v in one.state_dict().items()} for one in networks]
    random_state = torch.get_rng_state()
    trainer, batch = HeadTrainer(task), head_views(task)
    losses = [trainer.advance(batch) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert torch.equal(random_state, torch.get_rng_state())
    for network, weights in zip(networks, before, strict=True):
        assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())


def test_resumed_training_gives_the_same_bits(name: str, backbones: Backbones) -> None:
    whole, first, second = (HeadTrainer(head_task(name, backbones)) for _ in range(3))
    batches = [head_views(head_task(name, backbones), seed) for seed in range(6)]
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


def test_first_weights_depend_on_the_seed(name: str, backbones: Backbones) -> None:
    part = NamedOptions(name=name, options=SHORT_SCHEDULE)
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
    fields = plugins.load_plugin(heads.PACKAGE, name).Options.model_fields
    assert all(field.description for field in fields.values())
