"""Which image a step takes, and which state a training goes on from."""

import pytest
import torch

from ovseg_core.training.heads.shared.trainer import HeadTrainer
from tests.helpers.head_tasks import head_task
from tests.helpers.tiny_models import tiny_backbones


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
