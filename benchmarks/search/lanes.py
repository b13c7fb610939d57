"""Fused lanes: many schedules of one task trained at once, each lane with weights and a rate of its own.

Trials of one seed that differ only in their schedule have the same graph and see the same batches, so one vectorised
step trains all of them (Wang et al. 2021, "HFTA", arXiv 2102.02344). What a lane records is what
:class:`autowarmup.training.trial.Trial` records of the same schedule and seed, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from autowarmup.schedule.schedule import Schedule
from autowarmup.seeds import derive_seed
from autowarmup.training.losses import inferred_loss
from autowarmup.training.rng import borrowed
from autowarmup.training.task import ModelTask
from autowarmup.training.trace import Evaluation, Trace
from benchmarks.search.optimizers import Lion, Muon, orthogonalized

Weights = dict[str, Tensor]
"""Tensors by name; the first dimension is the lane."""


class LaneOptimizer(Protocol):
    """An optimizer whose learning rate differs from lane to lane."""

    def step(self, weights: Weights, gradients: Weights, rates: Tensor) -> None: ...


class LaneSGD:
    """SGD with momentum, as ``torch.optim.SGD`` computes it."""

    def __init__(self, momentum: float, weight_decay: float) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        self._velocity: Weights = {}

    def step(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        for name, weight in weights.items():
            gradient = gradients[name].add(weight, alpha=self.weight_decay)
            velocity = self._velocity.get(name)
            self._velocity[name] = gradient if velocity is None else velocity.mul_(self.momentum).add_(gradient)
            weight.sub_(self._velocity[name] * _column(rates, weight))


class LaneAdamW:
    """AdamW, as ``torch.optim.AdamW`` computes it."""

    def __init__(self, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self._first: Weights = {}
        self._second: Weights = {}
        self._steps = 0

    def step(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        self._steps += 1
        beta1, beta2 = self.betas
        correction1, correction2 = 1.0 - beta1**self._steps, 1.0 - beta2**self._steps
        for name, weight in weights.items():
            gradient = gradients[name]
            if name not in self._first:
                self._first[name], self._second[name] = torch.zeros_like(weight), torch.zeros_like(weight)
            first = self._first[name].lerp_(gradient, 1.0 - beta1)
            second = self._second[name].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
            size = second.sqrt().div_(correction2**0.5).add_(self.eps)
            rate = _column(rates, weight)
            weight.mul_(1.0 - rate * self.weight_decay)
            weight.sub_(first / size * (rate / correction1))


class LaneLion:
    """Lion, as :class:`benchmarks.search.optimizers.Lion` computes it."""

    def __init__(self, betas: tuple[float, float], weight_decay: float) -> None:
        self.betas, self.weight_decay = betas, weight_decay
        self._momentum: Weights = {}

    def step(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        beta1, beta2 = self.betas
        for name, weight in weights.items():
            momentum = self._momentum.setdefault(name, torch.zeros_like(weight))
            update = momentum.lerp(gradients[name], 1.0 - beta1).sign_()
            momentum.lerp_(gradients[name], 1.0 - beta2)
            rate = _column(rates, weight)
            weight.mul_(1.0 - rate * self.weight_decay).sub_(update * rate)


class LaneMuon:
    """Muon, as :class:`benchmarks.search.optimizers.Muon` computes it."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self._momentum: Weights = {}

    def step(self, weights: Weights, gradients: Weights, rates: Tensor) -> None:
        for name, weight in weights.items():
            momentum = self._momentum.setdefault(name, torch.zeros_like(weight))
            momentum.mul_(self.momentum).add_(gradients[name])
            update = orthogonalized(gradients[name].add(momentum, alpha=self.momentum))
            weight.sub_(update * _column(rates, weight))


def lane_optimizer(optimizer: torch.optim.Optimizer) -> LaneOptimizer:
    """The optimizer's counterpart for lanes; it must be plain SGD, AdamW, Lion or Muon with one group of parameters.

    Raises:
        ValueError: it is none of these.
    """
    settings: dict[str, Any] = optimizer.defaults
    kind = type(optimizer) if len(optimizer.param_groups) == 1 else None
    if kind is torch.optim.AdamW and not settings["amsgrad"]:
        return LaneAdamW(settings["betas"], settings["eps"], settings["weight_decay"])
    if kind is torch.optim.SGD and not settings["nesterov"]:
        return LaneSGD(settings["momentum"], settings["weight_decay"])
    if kind is Lion:
        return LaneLion(settings["betas"], settings["weight_decay"])
    if kind is Muon:
        return LaneMuon(settings["momentum"])
    raise ValueError(f"lanes are made for SGD, AdamW, Lion and Muon with one parameter group, not {optimizer!r}")


class Lanes:
    """Trains ``schedules`` of one task under one seed, all at once.

    Args:
        task: what is trained. Models with running statistics, dropout or mixed precision are not supported.
        schedules: one a lane, all of one horizon.
        seed: fixes initial weights and batches, as for a trial.
        eval_every: optimizer steps between validations.
    """

    def __init__(self, task: ModelTask, schedules: Sequence[Schedule], seed: int, eval_every: int) -> None:
        self.task, self.schedules, self.eval_every, self.seed = task, schedules, eval_every, seed
        self.horizon = schedules[0].horizon
        with borrowed():
            self._model = task.recipe.build_model(seed)
        parameters, buffers = stack_module_state([self._model])  # type: ignore[no-untyped-call]
        if buffers:
            raise ValueError("lanes don't support models with buffers")
        lanes = len(schedules)
        self._weights = {
            name: weight.detach().expand(lanes, *weight.shape[1:]).contiguous() for name, weight in parameters.items()
        }
        self._optimizers = [
            (lane_optimizer(optimizer), optimizer.defaults["lr"] / task.current_peak, self._trained_by(optimizer))
            for optimizer in task.recipe.build_optimizers(self._model)
        ]
        self._average = {name: weight.clone() for name, weight in self._weights.items()}
        self._gradients = vmap(grad_and_value(self._loss), in_dims=(0, None))
        self._losses = vmap(self._loss, in_dims=(0, None))

    def run(self) -> list[Trace]:
        """Each lane's whole trace, in the order of the schedules."""
        rates = np.stack([schedule.curve() for schedule in self.schedules])
        losses, norms = np.empty_like(rates), np.empty_like(rates)
        evaluations: list[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        for step, batch in enumerate(self._batches()):
            gradients, loss = self._gradients(self._weights, batch)
            rate = torch.from_numpy(rates[:, step]).float()
            for optimizer, ratio, weights in self._optimizers:
                optimizer.step(weights, gradients, rate * ratio)
            for name, average in self._average.items():
                average.lerp_(self._weights[name], 9.0 / (step + 11.0))
            losses[:, step] = loss.numpy()
            norms[:, step] = _norms(gradients).numpy()
            if (step + 1) % self.eval_every == 0 or step + 1 == self.horizon:
                evaluations.append((step + 1, self._validation(self._weights), self._validation(self._average)))
        norms[np.isnan(norms)] = np.inf
        return [
            Trace(
                rates[lane],
                losses[lane],
                norms[lane],
                tuple(Evaluation(step, float(raw[lane]), float(ema[lane])) for step, raw, ema in evaluations),
            )
            for lane in range(len(self.schedules))
        ]

    def _trained_by(self, optimizer: torch.optim.Optimizer) -> Weights:
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        names = [name for name, parameter in self._model.named_parameters() if id(parameter) in trained]
        return {name: self._weights[name] for name in names}

    def _batches(self) -> Iterator[Any]:
        batches = islice(self.task.recipe.data.train.passes(derive_seed(self.seed, "data")), self.horizon)
        while True:
            with borrowed():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _loss(self, weights: Weights, batch: Any) -> Tensor:
        output = functional_call(self._model, weights, tuple(batch[:-1]))
        return (self.task.recipe.loss or inferred_loss)(output, batch[-1])

    @torch.no_grad()
    def _validation(self, weights: Weights) -> np.ndarray[Any, Any]:
        total, examples = torch.zeros(len(self.schedules)), 0
        for batch in self.task.recipe.data.validation.one_pass():
            total += self._losses(weights, batch) * len(batch[-1])
            examples += len(batch[-1])
        return (total / examples).numpy()


def _column(rates: Tensor, weight: Tensor) -> Tensor:
    """The lanes' rates, to be broadcast against stacked weights."""
    return rates.view(-1, *[1] * (weight.dim() - 1))


def _norms(gradients: Weights) -> Tensor:
    """The norm of each lane's gradient."""
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
    return torch.stack(squares).sum(0).sqrt()
