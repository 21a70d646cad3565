"""Training of a head step by step, resumable from any step with bit-identical results.

Which image a step takes and how it is augmented follows from the seed and the step, see
`ovseg_core.training.sampler`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ovseg_core.training.heads import HeadTask

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""AdamW's state of a weight."""


class HeadTrainer:
    """A head's training with its optimiser.

    Args:
        task: weights, learning rates and loss.
    """

    def __init__(self, task: HeadTask) -> None:
        self._task = task
        self._optimiser = torch.optim.AdamW(
            [
                {"params": [weight], "lr": task.learning_rates[name]}
                for name, weight in task.weights.items()
            ]
        )
        self.step = 0

    def advance(self, views: Sequence[Tensor]) -> float:
        """Do one step and return the loss before it.

        Args:
            views: the batch, pixel values 0..255 (3, S, S) each.
        """
        device = next(iter(self._task.weights.values())).device
        rates = self._task.learning_rates.values()
        for group, rate in zip(self._optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * self._task.learning_rate_factor(self.step)
        loss = self._task.loss(torch.stack(list(views)).to(device), self.step)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """Return the weights and the optimiser's state, on the CPU."""
        state: dict[str, Tensor] = {}
        for name, weight in self._task.weights.items():
            state[f"weight.{name}"] = weight.detach()
            for moment, value in self._optimiser.state[weight].items():
                state[f"{moment}.{name}"] = value
        return {name: value.cpu().clone() for name, value in state.items()}

    @torch.no_grad()
    def restore(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Continue from the result of `state` after `step` steps.

        Raises:
            ValueError: the state is not one of this task; it names the tensor at fault.
        """
        self._check_state(state)
        self.step = step
        for name, weight in self._task.weights.items():
            weight.copy_(state[f"weight.{name}"])
            self._optimiser.state[weight] = {
                moment: state[f"{moment}.{name}"].to(weight.device if moment != "step" else "cpu")
                for moment in _MOMENTS
                if f"{moment}.{name}" in state
            }

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        for name, weight in self._task.weights.items():
            for part in ("weight", *_MOMENTS):
                value = state.get(f"{part}.{name}")
                shape = () if part == "step" else tuple(weight.shape)
                if value is None and part != "weight":
                    continue
                if value is None:
                    raise ValueError(f"it has no tensor weight.{name}")
                if tuple(value.shape) != shape or not value.is_floating_point():
                    what = f"{tuple(value.shape)} of {value.dtype}"
                    raise ValueError(f"{part}.{name} is {what}, expected {shape} of float32")
                if not value.isfinite().all():
                    raise ValueError(f"{part}.{name} holds NaN or infinity")
