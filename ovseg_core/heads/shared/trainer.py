"""Training a head step by step, so that it can stop anywhere and go on to the same bits.

Which image a step sees and how it is changed are functions of the seed and of the image's place in
the training; so the step is all there is to remember of the sampler and of the random numbers.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ovseg_core.heads import HeadTask

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of a weight."""


class HeadTrainer:
    """A head and its optimiser.

    Args:
        task: the head.
    """

    def __init__(self, task: HeadTask) -> None:
        self._task = task
        self._groups = [
            {"params": [weight], "lr": task.rates[name]} for name, weight in task.weights.items()
        ]
        self._optimiser = torch.optim.AdamW(self._groups)
        self.step = 0

    def advance(self, views: Sequence[Tensor]) -> float:
        """Do one step; return the loss before it.

        Args:
            views: the batch, grey levels 0..255 (3, S, S) each.
        """
        device = next(iter(self._task.weights.values())).device
        rates = self._task.rates.values()
        for group, rate in zip(self._optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * self._task.rate_factor(self.step)
        loss = self._task.loss(torch.stack(list(views)).to(device), self.step)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """Return the weights and the optimiser's memory, on the CPU."""
        state: dict[str, Tensor] = {}
        for name, weight in self._task.weights.items():
            state[f"weight.{name}"] = weight.detach()
            for moment, value in self._optimiser.state[weight].items():
                state[f"{moment}.{name}"] = value
        return {name: value.cpu().clone() for name, value in state.items()}

    @torch.no_grad()
    def restore(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned after `step` steps."""
        self.step = step
        for name, weight in self._task.weights.items():
            weight.copy_(state[f"weight.{name}"])
            self._optimiser.state[weight] = {
                moment: state[f"{moment}.{name}"].to(weight.device if moment != "step" else "cpu")
                for moment in _MOMENTS
                if f"{moment}.{name}" in state
            }


class Draws:
    """Which image stands at which place of a training: epochs, each shuffled anew.

    Args:
        num_images: of the collection.
        sample: so many of them, drawn with replacement, are trained on; 0: all.
        seed: of all draws.
    """

    def __init__(self, num_images: int, sample: int, seed: int) -> None:
        self._num_images = num_images
        self._seed = seed
        everything = np.arange(num_images)
        draw = np.random.RandomState(seed)  # numpy's choice under a seed, as published
        self._chosen = draw.choice(everything, sample) if sample else everything
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def index(self, place: int) -> int:
        """Return the image at a place."""
        epoch, within = divmod(place, len(self._chosen))
        return int(self._chosen[self._order(epoch)[within]])

    def random(self, place: int) -> np.random.Generator:
        """Return the random numbers of a place."""
        return np.random.default_rng([self._seed, 2, place])

    def another(self, rng: np.random.Generator) -> int:
        """Return an image in the place of one that cannot be read."""
        return int(rng.integers(self._num_images))

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._chosen))
