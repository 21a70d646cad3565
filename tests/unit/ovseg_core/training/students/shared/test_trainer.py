"""A student's training: exact resume, workers that share a batch, averaging, damaged states."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.segmenter import TextMatrix
from ovseg_core.training.students import (
    IGNORED,
    UNLABELLED,
    TextShape,
    TrainingView,
    build_network,
    build_task,
)
from ovseg_core.training.students.shared.trainer import Averaging, StudentTrainer
from schemas.config import NamedOptions
from schemas.errors import TrainingError

ROWS_QD = F.normalize(torch.randn(4, 12, generator=torch.Generator().manual_seed(0)), dim=1)
TEXT = TextMatrix(ROWS_QD, torch.tensor([0, 1, 2, 2]), 3)
STEPS = 6


def part(**options: Any) -> NamedOptions:
    small = {"backbone": "test_convnext", "backbone_weights": "random", "channels": 8}
    return NamedOptions(
        name="maskclip_plus", options={**small, "size_px": 32, "steps": STEPS, **options}
    )


def trainer(decay: float = 0.0, **options: Any) -> StudentTrainer:
    torch.manual_seed(1)
    chosen = part(**options)
    network = build_network(chosen, TextShape(4, 12))
    return StudentTrainer(network, build_task(chosen, 0), TEXT, Averaging(decay))


def views(step: int, count: int = 4) -> list[TrainingView]:
    random = np.random.default_rng(step)
    made = []
    for _ in range(count):
        labels = torch.from_numpy(random.integers(-2, 3, (32, 32)))
        teacher = torch.from_numpy(random.integers(-1, 3, (32, 32)))
        pixels = torch.from_numpy(random.integers(0, 256, (3, 32, 32), dtype=np.uint8))
        made.append(TrainingView(pixels, labels, teacher))
    return made


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "sgd", "self_training_from": 0.5},
        {"optimiser": "adamw", "decay": 0.9},
        {"optimiser": "sgd", "decay": 0.9, "head": "aspp", "backbone": "test_resnet"},
    ],
)
def test_a_training_that_goes_on_ends_with_the_same_bits(options: dict) -> None:
    undisturbed, first = trainer(**options), trainer(**options)
    losses = [undisturbed.advance(views(step)) for step in range(STEPS)]
    checkpoints = {}
    for step in range(STEPS - 1):
        assert first.advance(views(step)) == losses[step]
        checkpoints[step + 1] = {name: value.clone() for name, value in first.state().items()}
    for stop in (1, 3, 5):
        second = trainer(**options)
        second.advance(views(99))  # what it did before is forgotten
        second.restore(stop, checkpoints[stop])
        assert [second.advance(views(step)) for step in range(stop, STEPS)] == losses[stop:]
        assert same(second.state(), undisturbed.state())
        assert same(second.result(), undisturbed.result())


def test_workers_that_share_a_batch_learn_what_one_learns_of_it() -> None:
    """Also where the workers' parts have different numbers of pixels that count."""
    batch = views(0)
    pixels, _, teacher = batch[0]
    batch[0] = TrainingView(pixels, torch.full((32, 32), IGNORED), teacher)
    alone = trainer()
    loss = alone.advance(batch)
    parts = [batch[:2], batch[2:]]
    sums = torch.stack([_own_sums(one) for one in parts]).sum(dim=0)
    gradients = []
    for one in parts:
        worker = _worker(2, lambda _: sums)
        assert worker.advance(one) == pytest.approx(loss, abs=1e-6)
        gradients.append(
            {name: value for name, value in worker.state().items() if "state." in name}
        )
    expected = {name: value for name, value in alone.state().items() if "state." in name}
    for name, value in expected.items():  # the first momentum is the gradient (and weight decay)
        mean = (gradients[0][name] + gradients[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6)


def _worker(num_workers: int, sum_over_workers: Callable[[Tensor], Tensor]) -> StudentTrainer:
    torch.manual_seed(1)
    network = build_network(part(), TextShape(4, 12))
    averaging = Averaging(0.0, num_workers, sum_over_workers)
    return StudentTrainer(network, build_task(part(), 0), TEXT, averaging)


def _own_sums(batch: Sequence[TrainingView]) -> Tensor:
    """What a worker sends to the others: total and number of its pixels."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _worker(1, keep).advance(batch)
    return found[0]


def test_the_average_moves_towards_the_weights_at_its_decay() -> None:
    ours = trainer(decay=0.15)
    name = "head.smooth.4.bias"
    average = ours.state()[f"weight.{name}"]
    for step in range(3):
        ours.advance(views(step))
        decay = min(0.15, (2 + step) / (11 + step))
        average = decay * average + (1 - decay) * ours.state()[f"weight.{name}"]
    torch.testing.assert_close(ours.result()[name], average)


def test_a_batch_in_which_all_is_ignored_has_no_loss() -> None:
    ours = trainer(weight_decay=0)
    before = ours.state()
    nothing = torch.full((32, 32), IGNORED)
    view = TrainingView(views(0)[0].pixels, nothing, nothing)
    assert ours.advance([view, view]) == 0
    after = ours.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    ours = trainer()
    ours.advance(views(0))
    broken = ours.state()
    broken["weight.head.smooth.4.bias"] = torch.full((12,), 3e38)
    ours.restore(1, broken)
    with pytest.raises(TrainingError, match=r"loss of step 2 is (nan|inf).*learning_rate"):
        ours.advance(views(1))
    assert ours.step == 1
    assert same(ours.state(), broken)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight.head.smooth.4.bias", None, "no tensor weight.head.smooth.4.bias"),
        ("weight.head.smooth.4.bias", torch.ones(1), r"is \(1,\) of torch.float32, expected \(12,"),
        ("weight.head.smooth.4.bias", torch.full((12,), torch.nan), "holds NaN"),
        ("average.head.smooth.4.bias", None, "no tensor average"),
        ("state.exp_avg.head.smooth.4.bias", torch.ones(7), r"is \(7,\)"),
        ("state.step.head.smooth.4.bias", torch.tensor(3), "int64, expected"),
    ],
)
def test_a_state_of_another_training_changes_nothing(
    name: str, value: Tensor | None, message: str
) -> None:
    ours = trainer(decay=0.9, optimiser="adamw")
    ours.advance(views(0))
    good = ours.state()
    other = trainer(decay=0.9, optimiser="adamw")
    other.advance(views(1))
    changed = {key: one for key, one in other.state().items() if key != name}
    changed |= {} if value is None else {name: value}
    with pytest.raises(ValueError, match=message):
        ours.restore(5, changed)
    assert ours.step == 1
    assert same(ours.state(), good)


def test_the_learning_rate_falls_as_mmsegmentation_lets_it() -> None:
    """(rate - least) (1 - step / steps) ** 0.9 + least."""
    ours = trainer(learning_rate=0.02, min_learning_rate=0.001)
    rates = []
    for step in range(STEPS):
        rates.append(ours.learning_rate)
        ours.advance(views(step, 2))
    expected = [0.019 * (1 - step / STEPS) ** 0.9 + 0.001 for step in range(STEPS)]
    assert rates == pytest.approx(expected)


def test_it_learns_what_it_is_shown() -> None:
    """Colours of halves: from chance to nearly no loss, from the teacher's labels alone."""
    ours = trainer(optimiser="adamw", learning_rate=0.01, steps=30)
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    pixels[0, :, :16], pixels[2, :, 16:] = 200, 200
    teacher = torch.ones(32, 32, dtype=torch.int64)
    teacher[:, 16:] = 2
    view = TrainingView(pixels, torch.full((32, 32), UNLABELLED), teacher)
    losses = [ours.advance([view, view]) for _ in range(30)]
    assert losses[0] > 0.7
    assert losses[-1] < 0.15
