"""Optimisers and learning rate schedule: Muon for matrices, AdamW for the rest.

torch's own Muon updates one matrix at a time, which costs 50 ms per step; this one stacks them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def orthogonalise(stack: Tensor, rounds: int = 5) -> Tensor:
    """Return nearly orthogonal matrices by Newton-Schulz iterations: (N, R, C) with R <= C."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = stack / stack.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    x = x.bfloat16()
    for _ in range(rounds):
        gram = torch.bmm(x, x.transpose(1, 2))
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.float()


class StackedMuon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and AdamW-like step sizes (0.2 sqrt of the longer side).

    Args:
        params: 2-D weights; those of one shape (or its transpose) are updated together.
    """

    def __init__(
        self, params: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.03
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.stacks: dict[tuple[int, int], list[Tensor]] = {}
        for p in params:
            rows, columns = sorted(p.shape)
            self.stacks.setdefault((rows, columns), []).append(p)
        self.momenta = {k: torch.zeros(len(v), *k) for k, v in self.stacks.items()}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters; each must have a gradient."""
        group = self.param_groups[0]
        rate, momentum = group["lr"], group["momentum"]
        for (rows, columns), params in self.stacks.items():
            wide = [p.shape[0] <= p.shape[1] for p in params]
            grads = [p.grad if w else p.grad.T for p, w in zip(params, wide, strict=True)]
            gradient = torch.stack(grads)
            momentum_buffer = self.momenta[rows, columns].lerp_(gradient, 1 - momentum)
            update = orthogonalise(gradient.lerp(momentum_buffer, momentum)) * (0.2 * columns**0.5)
            for p, w, u in zip(params, wide, update, strict=True):
                p.mul_(1 - rate * group["weight_decay"]).add_(u if w else u.T, alpha=-rate)


def optimisers(matrices: list[nn.Module], everything: list[nn.Module], rate: float) -> list:
    """Return Muon for the 2-D weights of `matrices`, and AdamW for the rest of `everything`."""
    muon = [p for part in matrices for p in part.parameters() if p.ndim == 2]
    taken = {id(p) for p in muon}
    rest = [p for part in everything for p in part.parameters() if id(p) not in taken]
    rest = [p for p in rest if p.requires_grad]
    return [
        StackedMuon(muon, lr=rate),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def learning_rate_factor(step: int, steps: int, warm: int = 100, hold: float = 0.6) -> float:
    """Return the factor of the learning rate: linear warm-up, constant, then a cosine to zero."""
    if step < warm:
        return (step + 1) / warm
    if step < hold * steps:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - hold * steps) / ((1 - hold) * steps)))
