"""What the integrations share: the user's functions are checked, and the steps of a framework's loop are reported."""

from __future__ import annotations

import gc
import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from autowarmup.errors import AutowarmupError, InputError
from autowarmup.seeds import derive_seed
from autowarmup.training.average import AveragedWeights
from autowarmup.training.identity import digest_of
from autowarmup.training.loop import LoopRun
from autowarmup.training.optimizers import parameters_of
from autowarmup.training.rng import borrowed, seed_everything
from autowarmup.values import short

Evaluate = Callable[[], Mapping[str, float]]
"""Validates the model as it is: the validation loss as ``"loss"``, and metrics by name."""

SAMPLED = 64
"""About so many examples tell a data set from others."""

RESERVED = {"loss", "val_loss", "val_loss_ema"}
"""Names that a metric of a validation can't have."""


class Steps:
    """Reports the optimizer steps of a framework's loop to a study's run, and validates the model where the study wants
    it, with its weights and with their average.

    Args:
        run: the trial's run.
        model: what is trained.
        optimizer: trains it.
        evaluate: validates it.
        apart: a context in which other trials may run.
        processes: how many train together, as the framework knows it.

    Attributes:
        scheduler: applies the run's schedule; to be stepped after each optimizer step.

    Raises:
        InputError: the engine has another number of processes for a trial.
    """

    def __init__(
        self,
        run: LoopRun,
        model: nn.Module,
        optimizer: Optimizer,
        evaluate: Evaluate,
        apart: Callable[[], AbstractContextManager[Any]] = nullcontext,
        processes: int = 1,
    ) -> None:
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() != processes:
            raise InputError(
                f"the engine trains each trial in {dist.get_world_size()} processes, and the framework knows of "
                f"{processes}: leave processes out of RaySettings"
            )
        self.scheduler = run.schedule.scheduler(optimizer)
        self._run, self._model, self._evaluate, self._apart = run, model, evaluate, apart
        self._average = AveragedWeights(model, parameters_of([optimizer]))
        self._device = next(model.parameters()).device
        self._steps = 0
        self._names = ["loss"]

    def made(self, loss: float, grad_norm: float | None = None, *, skipped: bool = False) -> bool:
        """An optimizer step has been made. Returns whether to stop.

        Args:
            loss: the step's training loss.
            grad_norm: the gradient's norm before clipping, where it is known.
            skipped: whether a loss scaler left the weights as they were.
        """
        self._steps += 1
        self._average.update(self._steps)
        validates = self._run.should_validate
        with self._apart():
            stop = self._run.report(loss, grad_norm=grad_norm, lr=0.0 if skipped else None)
        if validates and (not stop or self._steps == self._run.total_steps):
            self._validate()
        return stop

    def check_end(self, framework: str) -> None:
        """The framework's loop has ended.

        Raises:
            InputError: it did so by itself.
        """
        if not self._run.should_stop:
            raise InputError(
                f"{framework} ended after {self._steps} of {self._run.total_steps} optimizer steps by itself: no "
                f"callback may stop it early, and its data must last"
            )

    def _validate(self) -> None:
        raw = self._evaluated()
        with self._average.swapped_in():
            averaged = self._evaluated()
        report_both(self._run, raw, averaged)

    def _evaluated(self) -> dict[str, float]:
        """The values with the model's current weights; all NaN where the user's code raises and the weights aren't
        finite. The training's random state stays as it is, and so do the modes of the model's modules."""
        with borrowed(self._device), _same_modes(self._model):
            seed_everything(derive_seed(self._run.seed, "validation"), self._device)
            try:
                values = dict(self._evaluate())
            except Exception:
                if all(bool(parameter.isfinite().all()) for parameter in self._model.parameters()):
                    raise
                return dict.fromkeys(self._names, math.nan)
        self._names = [*values]
        return values


@contextmanager
def _same_modes(model: nn.Module) -> Iterator[None]:
    """After the context each module is in training or evaluation mode as before: parts may be frozen."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def report_both(run: LoopRun, raw: Mapping[str, float], averaged: Mapping[str, float]) -> None:
    """Reports a validation with the weights, and one with their average: each has the ``"loss"``, and metrics."""
    names = [name for name in raw if name not in RESERVED]
    metrics = {name: raw[name] for name in names} | {f"{name}_ema": averaged[name] for name in names}
    run.report_validation(raw["loss"], averaged["loss"], **metrics)


def begin(run: LoopRun, device: torch.device) -> None:
    """At the start of a trial, before anything is built: frees what ended trials have left, since trainers refer to
    themselves, and seeds the global generators for the initial weights as those of a ``model_fn`` are."""
    gc.collect()
    seed_everything(derive_seed(run.seed, "model"), device)


def imported(name: str) -> Any:
    """A framework's package.

    Raises:
        InputError: it isn't installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = name.split(".")[0]
        raise InputError(f"{name} can't be imported ({error}): pip install 'autowarmup[{extra}]'") from error


def check_function(name: str, function: Any, builds: str) -> None:
    """Checks that something is a function without arguments.

    Raises:
        InputError: it isn't.

    Example:
        >>> check_function("make_trainer", 3, "a transformers.Trainer")
        Traceback (most recent call last):
        autowarmup.errors.InputError: make_trainer must be a function that builds a transformers.Trainer, got 3
    """
    if not callable(function) or isinstance(function, nn.Module):
        raise InputError(f"{name} must be a function that builds {builds}, got {short(function)}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise InputError(f"{name} must take no arguments: {error}. Wrap it in a function that passes them") from error
    except ValueError:
        pass  # some builtins don't say what they take


def built(name: str, function: Callable[[], Any]) -> Any:
    """What one of the user's functions builds.

    Raises:
        InputError: it raised.
    """
    try:
        return function()
    except AutowarmupError:
        raise
    except Exception as error:
        raise InputError(f"{name} raised {type(error).__name__}: {error}") from error


def check_optimizer(optimizer: Optimizer, whose: str) -> None:
    """Checks that an optimizer has learning rates that a schedule can be applied to.

    Raises:
        InputError: it hasn't.
    """
    lrs = [group.get("initial_lr", group.get("lr")) for group in optimizer.param_groups]
    if None in lrs or not max((float(lr) for lr in lrs if lr is not None), default=0.0) > 0.0:
        raise InputError(
            f"the {type(optimizer).__name__} of {whose} has no learning rate above 0 to apply a schedule to: its "
            f"parameter groups have {lrs}"
        )


def check_fresh(name: str, first: nn.Module, second: nn.Module) -> None:
    """Checks that two models share no parameters.

    Raises:
        InputError: they do.
    """
    known = {parameter.data_ptr() for parameter in first.parameters() if parameter.numel()}
    if any(parameter.data_ptr() in known for parameter in second.parameters() if parameter.numel()):
        raise InputError(f"{name} returned the same model twice: it must build a fresh one at every call")


def data_digest(dataset: Any) -> str:
    """A digest of what tells a data set from others: the fingerprint of one of the package ``datasets``; else its
    length and :data:`SAMPLED` of its examples. Of one without a length, or whose examples are drawn at random, less.

    Example:
        >>> data_digest([{"x": 1}, {"x": 2}]) == data_digest([{"x": 1}, {"x": 3}])
        False
    """
    if isinstance(dataset, Mapping):
        return digest_of({name: data_digest(part) for name, part in dataset.items()})
    if (fingerprint := getattr(dataset, "_fingerprint", None)) is not None:
        return digest_of(fingerprint)
    try:
        length = len(dataset)
        rows = range(0, length, max(1, length // SAMPLED))
        first, again = (digest_of(*(dataset[row] for row in rows)) for _ in range(2))
    except (TypeError, NotImplementedError):
        return digest_of(type(dataset))
    return digest_of(length, first if first == again else None)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are single numbers, as floats."""
    found = {}
    for name, value in values.items():
        one = value.numel() == 1 if isinstance(value, torch.Tensor) else isinstance(value, int | float | np.number)
        if one:
            found[name] = float(value)
    return found
