"""Training of a student step by step, resumable from any step with bit-identical results.

Shapes: B images of a worker's part of a batch, K classes, Q phrases, S side of a view.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ovseg_core.backbones.compute import DTYPES
from ovseg_core.segmenter import TextMatrix
from ovseg_core.training.students import IGNORED, StudentTask, TrainingView, class_logits
from schemas.config import Precision
from schemas.errors import TrainingError

_MOMENTS = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}
"""What the optimisers keep of each weight."""
_WEIGHT, _AVERAGE, _STATE, _SCALE = "weight.", "average.", "state.", "loss_scale"


@dataclass(frozen=True)
class Averaging:
    """What is averaged, and over what.

    Attributes:
        decay: of the moving average of the weights; 0: none.
        num_workers: that share a batch; their gradients are averaged by the network's wrapper.
        sum_over_workers: returns the sum of a tensor over them.
    """

    decay: float = 0.0
    num_workers: int = 1
    sum_over_workers: Callable[[Tensor], Tensor] = lambda tensor: tensor


class StudentTrainer:
    """A student's training with its optimiser.

    Args:
        network: a `StudentNetwork` on its device, or the wrapper that spreads it over workers.
        task: schedule, views and loss.
        text: rows of the labels, on the device.
        averaging: of weights, and over workers.
        precision: of the forward pass on a GPU.
        known_K: classes that people have labelled wherever they are, see `StudentTask.loss`.

    Attributes:
        step: steps done.
        counted: what counted in the loss of the last step, over all workers; 0: all was ignored.
    """

    def __init__(
        self,
        network: nn.Module,
        task: StudentTask,
        text: TextMatrix,
        averaging: Averaging | None = None,
        precision: Precision = "fp32",
        known_K: Tensor | None = None,
    ) -> None:
        self._network = network
        self._bare: Any = getattr(network, "module", network)
        self._task = task
        self._text = text
        self._averaging = averaging or Averaging()
        self._known_K = known_K
        self._has_background = bool((text.class_index_Q == 0).any())
        self._device = text.rows_QD.device
        self._optimiser = _optimiser(self._bare, task)
        on_gpu = self._device.type == "cuda"
        self._dtype = DTYPES[precision] if on_gpu else None
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self._dtype is torch.float16)
        self._average = (
            {name: value.clone() for name, value in self._bare.state_dict().items()}
            if self._averaging.decay
            else {}
        )
        self.step = 0
        self.counted = 0

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        optimisation = self._task.optimisation
        return optimisation.learning_rate * optimisation.factor(self.step)

    def advance(self, views: Sequence[TrainingView]) -> float:
        """Do one step and return the mean loss before it, over all workers.

        Args:
            views: this worker's part of the batch.

        Raises:
            TrainingError: the loss is NaN or infinite; the weights are those before the step.
        """
        pixels, labels, teacher = (
            torch.stack(list(tensors)).to(self._device, non_blocking=True)
            for tensors in zip(*views, strict=True)
        )
        if not self._has_background:  # then a pixel of no label is one that nobody has labelled
            labels, teacher = (one.masked_fill(one == 0, IGNORED) for one in (labels, teacher))
        self._network.train()
        for group in self._optimiser.param_groups:
            group["lr"] = self.learning_rate
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            logits_BQhw = self._network(pixels.float(), self._text.rows_QD)
        logits_BKhw = class_logits(logits_BQhw, self._text)
        loss = self._task.loss(logits_BKhw, labels, teacher, self.step, self._known_K)
        sums = torch.stack([loss.total.detach().double(), loss.count.double()])
        total, count = self._averaging.sum_over_workers(sums).tolist()
        mean = total / max(count, 1)
        self.counted = int(count)
        if not torch.isfinite(torch.tensor(mean)):
            raise TrainingError(
                f"the loss of step {self.step + 1} is {mean}: the training has diverged; use a "
                "smaller learning rate (student.options.learning_rate), or fp32"
            )
        # The wrapper takes the mean of the workers' gradients; the loss is one over all pixels.
        scaled = loss.total * (self._averaging.num_workers / max(count, 1))
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(scaled).backward()
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.step += 1
        self._add_to_average()
        return mean

    def result(self) -> dict[str, Tensor]:
        """Return the weights to be used: the moving average where there is one, on the CPU."""
        weights = self._average or self._bare.state_dict()
        return {name: value.detach().cpu().clone() for name, value in weights.items()}

    def state(self) -> dict[str, Tensor]:
        """Return weights, their average and the optimiser's state, on the CPU."""
        state = {f"{_WEIGHT}{key}": value for key, value in self._bare.state_dict().items()}
        state |= {f"{_AVERAGE}{key}": value for key, value in self._average.items()}
        for name, weight in self._bare.named_parameters():
            for moment in _MOMENTS[self._task.optimisation.name]:
                value = self._optimiser.state[weight].get(moment)
                if value is not None:
                    state[f"{_STATE}{moment}.{name}"] = value
        if self._scaler.is_enabled():
            scaler = self._scaler.state_dict()
            now = [scaler["scale"], scaler["_growth_tracker"]]
            state[_SCALE] = torch.tensor(now, dtype=torch.float64)
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    @torch.no_grad()
    def restore(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of `state` after `step` steps.

        Raises:
            ValueError: the state is not one of this training; it names the tensor at fault, and
                nothing is changed.
        """
        own = self._bare.state_dict()
        stored = dict(self._stored(state, own))
        for name, value in own.items():
            value.copy_(state[f"{_WEIGHT}{name}"])
        for name, value in self._average.items():
            value.copy_(state[f"{_AVERAGE}{name}"])
        for name, weight in self._bare.named_parameters():
            on = {moment: "cpu" if moment == "step" else weight.device for moment in stored[name]}
            self._optimiser.state[weight] = {
                moment: value.to(on[moment]).clone() for moment, value in stored[name].items()
            }
        if self._scaler.is_enabled() and _SCALE in state:
            scale, growth = state[_SCALE].tolist()
            changed = {"scale": scale, "_growth_tracker": int(growth)}
            self._scaler.load_state_dict({**self._scaler.state_dict(), **changed})
        self.step = step

    def _stored(
        self, state: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield each weight's part of the optimiser's state, having checked all of `state`."""
        for prefix, tensors in ((_WEIGHT, own), (_AVERAGE, self._average)):
            for name, value in tensors.items():
                _check_like(f"{prefix}{name}", state.get(f"{prefix}{name}"), value)
        for name, weight in self._bare.named_parameters():
            moments: dict[str, Tensor] = {}
            for moment in _MOMENTS[self._task.optimisation.name]:
                key = f"{_STATE}{moment}.{name}"
                if key in state:  # a weight without a gradient has none
                    like = torch.zeros(()) if moment == "step" else weight
                    moments[moment] = _check_like(key, state[key], like)
            yield name, moments
        if self._scaler.is_enabled() and _SCALE in state:
            _check_like(_SCALE, state[_SCALE], torch.zeros(2, dtype=torch.float64))

    @torch.no_grad()
    def _add_to_average(self) -> None:
        """Move the average towards the weights; early on faster, as it began at random ones."""
        if not self._average:
            return
        decay = min(self._averaging.decay, (1 + self.step) / (10 + self.step))
        for name, value in self._bare.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)


def _optimiser(network: nn.Module, task: StudentTask) -> torch.optim.Optimizer:
    how = task.optimisation
    common: dict[str, Any] = {"lr": how.learning_rate, "weight_decay": how.weight_decay}
    weights = network.parameters()
    if how.name == "sgd":
        return torch.optim.SGD(weights, momentum=how.momentum, **common)
    return torch.optim.AdamW(weights, **common)


def _check_like(name: str, stored: Tensor | None, expected: Tensor) -> Tensor:
    """Return a tensor of a state, having checked it against the one in use.

    Raises:
        ValueError: it is missing, of another shape or type, or not finite.
    """
    if stored is None:
        raise ValueError(f"it has no tensor {name}")
    if stored.shape != expected.shape or stored.dtype != expected.dtype:
        is_, needed = (f"{tuple(one.shape)} of {one.dtype}" for one in (stored, expected))
        raise ValueError(f"{name} is {is_}, expected {needed}")
    if not stored.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity")
    return stored
