"""A trial: one training run of one candidate, up to some step.

The engine pulls: :meth:`ModelTrial.run` yields what it records in blocks, and the engine decides whether to go on,
pause or stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from autowarmup.adaptive.climb import ClimbSettings
from autowarmup.adaptive.measured import MeasuredClimb
from autowarmup.errors import InputError
from autowarmup.schedule.freezing import Freezing
from autowarmup.schedule.schedule import Schedule
from autowarmup.schedule.torch_scheduler import lr_ratios, set_lr
from autowarmup.seeds import derive_seed
from autowarmup.training.average import AveragedWeights
from autowarmup.training.base import OpenState
from autowarmup.training.batch import Batch, shapes, size_of, target_of, to_device
from autowarmup.training.gradients import gradient_norm
from autowarmup.training.optimizers import groups_of
from autowarmup.training.recipe import Recipe
from autowarmup.training.rng import Stream, borrowed, portable, seed_everything, usable
from autowarmup.training.trace import Evaluation, Trace, is_evaluated

BLOCK = 10
"""Batches between two fetches of losses and gradient norms from the device."""


class ModelTrial:
    """Trains one candidate.

    Args:
        recipe: how to build and train the model.
        schedule: the learning rates it applies.
        seed: fixes initial weights, batches and dropout: trials of one seed differ in their schedule alone.
        eval_every: optimizer steps between validations; the horizon's end validates too.
        state: what :meth:`save` wrote, to go on from.
        climb: of a warm-up that adapts, its settings; the schedule then says how long the run is, and no more.
    """

    def __init__(
        self,
        recipe: Recipe,
        schedule: Schedule,
        seed: int,
        eval_every: int,
        state: IO[bytes] | None = None,
        climb: ClimbSettings | None = None,
    ) -> None:
        self.recipe, self.schedule, self.eval_every = recipe, schedule, eval_every
        self.step = 0
        self._seed, self._group = seed, recipe.group
        rank = [self._group.rank] if self._group.rank else []
        self._random = Stream(derive_seed(seed, "training", *rank), recipe.device)
        with borrowed(recipe.device):
            self._model = recipe.build_model(seed)
            self._optimizers = recipe.build_optimizers(self._model)
        self._groups = groups_of(self._optimizers)
        self._ratios = lr_ratios([float(group["lr"]) for group in self._groups])
        self._parameters = [parameter for group in self._groups for parameter in group["params"]]
        self._climb = None if climb is None else MeasuredClimb(climb, self._optimizers)
        self._freezing = Freezing(self._model, self._by_name()) if schedule.groups else None
        self._average = AveragedWeights(self._model)
        self._broken = (torch.tensor(math.nan, device=recipe.device),) * 2
        settings = recipe.settings
        self._scaler = torch.amp.GradScaler(recipe.device.type, enabled=settings.precision == "fp16")
        self._thaws = {group.frozen_steps for group in schedule.groups if group.frozen_steps}
        self._forward_model = self._group.wrapped(self._model, partly_used=recipe.partly_used or bool(self._thaws))
        if settings.compile:
            self._forward_model = cast(nn.Module, torch.compile(self._forward_model))
        if state is not None:
            self._load(state)
        self._batches = recipe.data.train.passes(derive_seed(seed, "data"), self.step * settings.accumulate)

    def run(self, until: int) -> Iterator[Trace]:
        """Trains to step ``until``, yielding what happened block by block. Outside, the global random state, the
        user's objects and the device's default settings are as they were.

        Where the user's code raises once the losses or weights are not finite, as many models do, that is recorded as
        a loss of NaN and not raised.

        Raises:
            InputError: the loss of a batch is not finite with the initial weights either.
        """
        accumulate = self.recipe.settings.accumulate
        while self.step < until:
            validation = self.eval_every - self.step % self.eval_every
            count = min(max(1, BLOCK // accumulate), until - self.step, validation)
            with borrowed():
                batches = [next(self._batches) for _ in range(count * accumulate)]
            with self._random:
                block = self.train(batches)
                if not np.isfinite(block.loss).all():
                    self._check_data("train", iter(batches[: accumulate * len(block)]))
                if is_evaluated(self.step, self.eval_every, self.schedule.horizon):
                    block = Trace(block.lr, block.loss, block.grad_norm, (self._validate(),), block.start)
            yield block

    def train(self, batches: list[Batch]) -> Trace:
        """One optimizer step for every ``accumulate`` batches, without waiting for the device before the end."""
        accumulate = self.recipe.settings.accumulate
        self._model.train()
        self._freeze()
        start = self.step
        lrs: list[float] = []
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        for first in range(0, len(batches), accumulate):
            if self.step in self._thaws:
                self._freeze()
            lrs.append(self._apply_lr())
            step = self._step_on(batches[first : first + accumulate], losses)
            losses.append(step[0])
            norms.append(step[1])
            self.step += 1
            self._average.update(self.step)
            if self._climb is not None:
                self._climb.advance()
            if step is self._broken:
                break
        return self._fetched(start, lrs, losses, norms)

    def _step_on(self, batches: list[Batch], earlier: list[Tensor]) -> tuple[Tensor, Tensor]:
        """An optimizer step: its loss, and the gradient's norm before clipping. Where the user's code raises after the
        ``earlier`` losses or the weights became non-finite, both are NaN."""
        try:
            return self._gradients(batches), self._update()
        except Exception:
            if self._group.size > 1 or self._is_finite(earlier):
                raise
            return self._broken

    def _gradients(self, batches: list[Batch]) -> Tensor:
        """Computes the gradients; returns the loss."""
        settings, device = self.recipe.settings, self.recipe.device
        total = torch.zeros((), device=device)
        for index, batch in enumerate(batches, 1):
            part, weight = self._group.share(batch)
            with self._group.accumulating(self._forward_model, last=index == settings.accumulate):
                with self._autocast():
                    loss, _ = self.recipe.forward(self._forward_model, to_device(part, device))
                loss = loss * weight / settings.accumulate
                self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach().reshape(())
        return total

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """The loss and the metrics of the current weights: means over the examples. The training's random state stays
        as it is."""
        self._model.eval()
        device, metrics = self.recipe.device, self.recipe.metrics
        totals = torch.zeros(len(metrics) + 2, device=device)
        with borrowed(device), torch.no_grad():
            seed_everything(derive_seed(self._seed, "validation"), device)
            for batch in self._group.every_nth(batches):
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
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "average": self._average.weights,
            "scaler": self._scaler.state_dict(),
            "random": self._group.all(portable(self._random.state)),
            "climb": None if self._climb is None else self._climb.state(),
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
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._groups = groups_of(self._optimizers)
        self._average.load(state["average"])
        self._scaler.load_state_dict(state["scaler"])
        if self._climb is not None:
            self._climb.load(state["climb"])
        if self._group.rank < len(state["random"]):
            self._random.state = usable(state["random"][self._group.rank])

    def _apply_lr(self) -> float:
        """Sets all groups' learning rates for the next step; returns the highest."""
        lr = self.schedule.lr_at(self.step) if self._climb is None else self._climb.lr
        rates = self.schedule.rates_at(self.step) if self.schedule.groups else {}
        for group, ratio in zip(self._groups, self._ratios, strict=True):
            set_lr(group, (rates[group["name"]] if rates else lr) * ratio)
        return lr

    def _by_name(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters of each group."""
        found: dict[str, list[nn.Parameter]] = {group.name: [] for group in self.schedule.groups}
        for group in self._groups:
            found[group["name"]] += [parameter for parameter in group["params"] if parameter.requires_grad]
        return found

    def _freeze(self) -> None:
        """Freezes and thaws the groups as the next step has them."""
        if self._freezing:
            self._freezing.apply(self.schedule.frozen_at(self.step))

    def _update(self) -> Tensor:
        """The optimizers' step; returns the gradient's norm before clipping."""
        optimizers = [optimizer for optimizer in self._optimizers if _has_gradients(optimizer)]
        for optimizer in optimizers:
            self._scaler.unscale_(optimizer)
        norm = gradient_norm(self._parameters)
        if self.recipe.settings.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self.recipe.settings.clip_norm, norm)
        for optimizer in optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        return norm

    def _fetched(self, start: int, lrs: list[float], losses: list[Tensor], norms: list[Tensor]) -> Trace:
        recorded = torch.stack([torch.stack(losses).float(), torch.stack(norms).float()])
        loss, norm = self._group.mean(recorded).cpu().double().numpy()
        lr = np.array(lrs)
        norm = np.where(np.isnan(norm), np.inf, norm)
        if self._scaler.is_enabled():  # the scaler skips a step whose gradients overflowed: its learning rate was 0
            lr = np.where(np.isfinite(norm), lr, 0.0)
        return Trace(lr, loss, norm, (), start)

    def _validate(self) -> Evaluation:
        self._group.align([*self._model.buffers(), *self._average.statistics])
        raw = self._evaluated()
        with self._average.swapped_in():
            averaged = self._evaluated()
        names = [*self.recipe.metrics]
        metrics = {name: raw[name] for name in names} | {f"{name}_ema": averaged[name] for name in names}
        return Evaluation(self.step, raw["loss"], averaged["loss"], metrics)

    def _evaluated(self) -> dict[str, float]:
        """:meth:`evaluate` on the validation data; all NaN where the user's code raises and the weights aren't
        finite."""
        data = self.recipe.data.validation
        try:
            values = self.evaluate(data.one_pass())
        except Exception:
            if self._group.size > 1 or self._is_finite([]):
                raise
            return dict.fromkeys(["loss", *self.recipe.metrics], math.nan)
        if not math.isfinite(values["loss"]):
            self._check_data("validation", data.one_pass())
        return values

    def _is_finite(self, losses: list[Tensor]) -> bool:
        """Whether the losses and the weights' norm are finite."""
        with torch.no_grad():
            norms = torch._foreach_norm([parameter.detach() for parameter in self._model.parameters()])
            return bool(torch.stack([torch.isfinite(value).all() for value in (*losses, *norms)]).all())

    def _check_data(self, name: str, batches: Iterator[Batch]) -> None:
        """A loss that isn't finite: the data's fault where that is so with the initial weights too."""
        device = self.recipe.device
        with borrowed(device), torch.no_grad():
            model = self.recipe.build_model(self._seed).train(name == "train")
            for batch in batches:
                with self._autocast():
                    loss, _ = self.recipe.forward(model, to_device(batch, device))
                if not torch.isfinite(loss).all():
                    raise InputError(
                        f"a {name} batch ({shapes(batch)}) gives a loss of {loss.item()} before any step too, so that "
                        f"no learning rate can mend it: are there NaN or infinite values in it, or no targets?"
                    )

    def _autocast(self) -> Any:
        precision = self.recipe.settings.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.recipe.device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it has something to do: all that it trains may be frozen."""
    return any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"])


def _number(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float32).reshape(())
    return torch.full((), float(value), device=device)
