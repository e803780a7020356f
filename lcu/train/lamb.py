"""LAMB: Adam whose step in each tensor is as long as the tensor's own weights, for large batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

Tensor = torch.Tensor


class Lamb(Optimizer):
    """LAMB (You et al. 2020, ICLR, algorithm 2), with Adam's correction of the first steps.

    Parameters
    ----------
    parameters : iterable of Tensor
    lr, weight_decay : float
    betas : tuple of float
        Decay of the means of gradients and of their squares.
    eps : float
        Added to the root of the mean square.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
    ) -> None:  # fmt: skip
        usual = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        super().__init__(parameters, usual)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Take a step with the gradients that are there."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    _step(weights, self.state[weights], group)


def _step(weights: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["step"] = 0
        state["mean"], state["square"] = torch.zeros_like(weights), torch.zeros_like(weights)
    state["step"] += 1
    first, second = group["betas"]
    mean = state["mean"].lerp_(weights.grad, 1 - first)
    square = state["square"].lerp_(weights.grad.square(), 1 - second)
    root = (square / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
    way = (mean / (1 - first ** state["step"])).div_(root)
    way.add_(weights, alpha=group["weight_decay"])
    own, length = weights.norm(), way.norm()
    # A tensor of zeros, as biases are at first, takes Adam's step.
    trust = torch.where((own > 0) & (length > 0), own / length, torch.ones_like(own))
    weights.sub_(way.mul_(trust * group["lr"]))
