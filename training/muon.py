"""Muon over stacks of matrices: torch's own loops over them one by one, which costs 50 ms here."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonalised(stack: Tensor, rounds: int = 5) -> Tensor:
    """Newton-Schulz towards the nearest orthogonal matrices, (N, R, C) with R <= C."""
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
        params: 2-D weights; those of the same shape up to a transpose are updated together.
    """

    def __init__(
        self, params: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.03
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.stacks: dict[tuple[int, int], list[Tensor]] = {}
        for p in params:
            rows, columns = sorted(p.shape)
            self.stacks.setdefault((rows, columns), []).append(p)
        self.memory = {k: torch.zeros(len(v), *k) for k, v in self.stacks.items()}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update; every parameter must have a gradient."""
        group = self.param_groups[0]
        rate, momentum = group["lr"], group["momentum"]
        for (rows, columns), params in self.stacks.items():
            wide = [p.shape[0] <= p.shape[1] for p in params]
            grads = [p.grad if w else p.grad.T for p, w in zip(params, wide, strict=True)]
            gradient = torch.stack(grads)
            memory = self.memory[rows, columns].lerp_(gradient, 1 - momentum)
            update = orthogonalised(gradient.lerp(memory, momentum)) * (0.2 * columns**0.5)
            for p, w, u in zip(params, wide, update, strict=True):
                p.mul_(1 - rate * group["weight_decay"]).add_(u if w else u.T, alpha=-rate)
