"""A trial: one training run of one candidate, up to some step.

The engine pulls: :meth:`Trial.run` yields what it observes in blocks, so pausing, promoting and stopping are the
engine's decision and the loop reads from top to bottom.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from autowarmup.schedule.schedule import Schedule
from autowarmup.seeds import derive_seed
from autowarmup.training.average import AveragedWeights
from autowarmup.training.base import OpenState
from autowarmup.training.batch import Batch, size_of, target_of, to_device
from autowarmup.training.recipe import Recipe
from autowarmup.training.rng import Stream, borrowed, portable, seed_everything, usable
from autowarmup.training.trace import Evaluation, Trace

BLOCK = 10
"""Batches between two fetches of losses and gradient norms from the device."""


class ModelTrial:
    """Trains one candidate.

    Args:
        recipe: how to build and train the model.
        schedule: the rates it applies.
        seed: fixes initial weights, batches and dropout: trials of one seed differ in their schedule alone.
        eval_every: optimizer steps between validations; the horizon's end validates too.
        state: what :meth:`save` wrote, to go on from.
    """

    def __init__(
        self, recipe: Recipe, schedule: Schedule, seed: int, eval_every: int, state: IO[bytes] | None = None
    ) -> None:
        self.recipe, self.schedule, self.eval_every = recipe, schedule, eval_every
        self.step = 0
        self._seed, self._group = seed, recipe.group
        rank = [self._group.rank] if self._group.rank else []
        self._random = Stream(derive_seed(seed, "training", *rank), recipe.device)
        with borrowed(recipe.device):
            self._model = recipe.build_model(seed)
            self._optimizer = recipe.build_optimizer(self._model)
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._ratios = [rate / max(rates) for rate in rates]
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._average = AveragedWeights(self._model)
        settings = recipe.settings
        self._scaler = torch.amp.GradScaler(recipe.device.type, enabled=settings.precision == "fp16")
        self._forward_model = self._group.wrapped(self._model, partly_used=recipe.partly_used)
        if settings.compile:
            self._forward_model = cast(nn.Module, torch.compile(self._forward_model))
        if state is not None:
            self._load(state)
        self._batches = recipe.data.train.passes(derive_seed(seed, "data"), self.step * settings.accumulate)

    def run(self, until: int) -> Iterator[Trace]:
        """Trains to step ``until``, yielding what happened block by block. Outside, the global random state, the
        user's objects and the device's default settings are as they were."""
        accumulate = self.recipe.settings.accumulate
        while self.step < until:
            validation = self.eval_every - self.step % self.eval_every
            count = min(max(1, BLOCK // accumulate), until - self.step, validation)
            with borrowed():
                batches = [next(self._batches) for _ in range(count * accumulate)]
            with self._random:
                block = self.train(batches)
                if self.step % self.eval_every == 0 or self.step == self.schedule.horizon:
                    block = Trace(block.lr, block.loss, block.grad_norm, (self._validate(),), block.start)
            yield block

    def train(self, batches: list[Batch]) -> Trace:
        """One optimizer step for every ``accumulate`` batches, without waiting for the device before the end."""
        settings, device = self.recipe.settings, self.recipe.device
        rates: list[float] = []
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        start = self.step
        self._model.train()
        for first in range(0, len(batches), settings.accumulate):
            rates.append(self._apply_rate())
            total = torch.zeros((), device=device)
            for index, batch in enumerate(batches[first : first + settings.accumulate], 1):
                part, weight = self._group.share(batch)
                with self._group.accumulating(self._forward_model, last=index == settings.accumulate):
                    with self._autocast():
                        loss, _ = self.recipe.forward(self._forward_model, to_device(part, device))
                    loss = loss * weight / settings.accumulate
                    self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                total += loss.detach().reshape(())
            losses.append(total)
            norms.append(self._update())
            self.step += 1
            self._average.update(self.step)
        return self._fetched(start, rates, losses, norms)

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """The loss and the metrics of the current weights: means over the examples. Uses no random numbers of the
        training's."""
        self._model.eval()
        device, metrics = self.recipe.device, self.recipe.metrics
        totals = torch.zeros(len(metrics) + 2, device=device)
        with borrowed(device), torch.no_grad():
            seed_everything(derive_seed(self._seed, "validation"), device)
            for batch in self._group.turns(batches):
                batch = to_device(batch, device)
                with self._autocast():
                    loss, output = self.recipe.forward(self._model, batch)
                    values = [loss, *(metric(output, target_of(batch)) for metric in metrics.values()), 1.0]
                totals += torch.stack([_number(value, device) for value in values]) * size_of(batch)
        *sums, examples = self._group.total(totals).tolist()
        return {name: total / examples for name, total in zip(["loss", *metrics], sums, strict=True)}

    def save(self, open_state: OpenState) -> bool:
        """Writes all that is needed to go on, bit for bit. All processes of a group must save; one's file will do."""
        state = {
            "step": self.step,
            "model": self._model.state_dict(),
            "buffers": dict(self._model.named_buffers()),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.weights,
            "scaler": self._scaler.state_dict(),
            "random": self._group.all(portable(self._random.state)),
        }
        with open_state() as file:
            torch.save(state, cast(IO[bytes], file))
        return True

    def close(self) -> None:
        """Nothing to do: the model's memory is freed with the trial."""

    def _load(self, file: IO[bytes]) -> None:
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.step = state["step"]
        self._model.load_state_dict(state["model"])
        for name, buffer in self._model.named_buffers():  # those that a state dict leaves out
            buffer.copy_(state["buffers"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load(state["average"])
        self._scaler.load_state_dict(state["scaler"])
        if self._group.rank < len(state["random"]):
            self._random.state = usable(state["random"][self._group.rank])

    def _apply_rate(self) -> float:
        rate = self.schedule.lr_at(self.step)
        for group, ratio in zip(self._optimizer.param_groups, self._ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * ratio)
            else:
                group["lr"] = rate * ratio
        return rate

    def _update(self) -> Tensor:
        """The optimizer's step; returns the gradient's norm before clipping."""
        self._scaler.unscale_(self._optimizer)
        norms = torch._foreach_norm([p.grad for p in self._parameters if p.grad is not None])
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if self.recipe.settings.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self.recipe.settings.clip_norm, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _fetched(self, start: int, rates: list[float], losses: list[Tensor], norms: list[Tensor]) -> Trace:
        recorded = torch.stack([torch.stack(losses).float(), torch.stack(norms).float()])
        loss, norm = self._group.mean(recorded).cpu().double().numpy()
        rate = np.array(rates)
        norm = np.where(np.isnan(norm), np.inf, norm)
        if self._scaler.is_enabled():  # the scaler skips a step whose gradients overflowed: its rate was 0
            rate = np.where(np.isfinite(norm), rate, 0.0)
        return Trace(rate, loss, norm, (), start)

    def _validate(self) -> Evaluation:
        self._group.align([*self._model.buffers(), *self._average.statistics])
        raw = self.evaluate(self.recipe.data.validation.one_pass())
        with self._average.swapped_in():
            averaged = self.evaluate(self.recipe.data.validation.one_pass())
        names = [*self.recipe.metrics]
        metrics = {name: raw[name] for name in names} | {f"{name}_ema": averaged[name] for name in names}
        return Evaluation(self.step, raw["loss"], averaged["loss"], metrics)

    def _autocast(self) -> Any:
        precision = self.recipe.settings.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.recipe.device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def _number(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float32).reshape(())
    return torch.full((), float(value), device=device)
