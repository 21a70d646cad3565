"""Which image a step takes, and which state a training goes on from."""

import numpy as np
import pytest
import torch

from ovseg_core.training.heads.shared.trainer import HeadTrainer, ImageSampler
from tests.helpers.head_tasks import head_task
from tests.helpers.tiny_models import tiny_backbones


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    draws = ImageSampler(7, 0, seed=1)
    epochs = [[draws.index(place) for place in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = ImageSampler(7, 0, seed=1)
    backwards = [again.index(place) for place in range(20, -1, -1)]
    assert backwards[::-1] == [*epochs[0], *epochs[1], *epochs[2]]
    assert draws.rng(3).random() == again.rng(3).random() != draws.rng(4).random()


def test_sample_is_drawn_with_replacement_as_numpy_does() -> None:
    draws = ImageSampler(50, 20, seed=0)
    epoch = [draws.index(place) for place in range(20)]
    assert sorted(epoch) == sorted(np.random.RandomState(0).choice(np.arange(50), 20).tolist())
    assert len(set(epoch)) < 20


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("weight.decoder.bias", None, "no tensor weight.decoder.bias"),
        ("weight.decoder.weight", torch.ones(1), r"weight.decoder.weight is \(1,\)"),  # broadcasts
        ("exp_avg.decoder.bias", torch.ones(7), r"exp_avg.decoder.bias is \(7,\)"),
        ("step.decoder.bias", torch.ones(2), r"step.decoder.bias is \(2,\)"),
        ("exp_avg_sq.decoder.bias", torch.ones(1, dtype=torch.int64), "int64, expected"),
        ("weight.decoder.bias", torch.full((1,), torch.nan), "NaN"),
    ],
)
def test_a_state_that_is_none_of_the_task_is_refused(
    name: str, value: torch.Tensor | None, why: str
) -> None:
    trainer = HeadTrainer(head_task("found", tiny_backbones()))
    state = dict(trainer.state())
    for weight in ("decoder.weight", "decoder.bias"):
        state[f"weight.{weight}"] = state[f"weight.{weight}"] + 1
    trainer.restore(2, state)
    assert trainer.step == 2
    changed = state | ({} if value is None else {name: value})
    if value is None:
        del changed[name]
    with pytest.raises(ValueError, match=why):
        trainer.restore(3, changed)
    assert trainer.step == 2
    assert trainer.state()["weight.decoder.bias"].equal(state["weight.decoder.bias"])
