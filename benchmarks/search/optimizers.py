"""Optimizers of the benchmark's tasks: PyTorch's by their settings, and Lion and Muon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]


def adamw(rate: float, beta2: float, weight_decay: float) -> OptimizerFactory:
    return lambda params: torch.optim.AdamW(params, lr=rate, betas=(0.9, beta2), weight_decay=weight_decay)


def sgd(rate: float, momentum: float, weight_decay: float = 0.0) -> OptimizerFactory:
    return lambda params: torch.optim.SGD(params, lr=rate, momentum=momentum, weight_decay=weight_decay)


def lion(rate: float, weight_decay: float) -> OptimizerFactory:
    return lambda params: Lion(params, rate, weight_decay=weight_decay)


def muon(rate: float, others: float, beta2: float) -> Callable[[nn.Module], list[torch.optim.Optimizer]]:
    """Muon for the matrices of the blocks, AdamW with the rate ``others`` for everything else."""

    def factory(model: nn.Module) -> list[torch.optim.Optimizer]:
        named = list(model.named_parameters())
        hidden = [weight for name, weight in named if weight.dim() == 2 and "blocks." in name]
        rest = [weight for name, weight in named if not (weight.dim() == 2 and "blocks." in name)]
        return [Muon(hidden, rate), torch.optim.AdamW(rest, lr=others, betas=(0.9, beta2), weight_decay=0.0)]

    return factory


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675): the sign of an interpolated momentum, and decoupled weight decay."""

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                update = momentum.lerp(weight.grad, 1.0 - beta1).sign_()
                momentum.lerp_(weight.grad, 1.0 - beta2)
                weight.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024), in single precision: Nesterov momentum of a matrix, made orthogonal."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.mul_(group["momentum"]).add_(weight.grad)
                update = orthogonalized(weight.grad.add(momentum, alpha=group["momentum"]))
                weight.sub_(update, alpha=group["lr"])


def orthogonalized(matrices: Tensor) -> Tensor:
    """The matrices, shape ``(..., rows, columns)``, with singular values near 1, by five Newton-Schulz iterations.

    Matrices with more rows than columns are scaled up by the root of that ratio.
    """
    rows, columns = matrices.shape[-2:]
    wide = matrices if rows <= columns else matrices.mT
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return (wide if rows <= columns else wide.mT) * max(1.0, rows / columns) ** 0.5
