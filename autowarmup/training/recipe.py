"""What a trial needs to know of a task: how to build the model and its optimizer, and what the loss is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autowarmup.errors import InputError
from autowarmup.seeds import derive_seed
from autowarmup.training.batch import Batch, InputNames, output_of, target_of
from autowarmup.training.data import Data
from autowarmup.training.distributed import Group
from autowarmup.training.groups import Groups, name_groups
from autowarmup.training.losses import Loss, inferred_loss, own_loss
from autowarmup.training.optimizers import OptimizerFactory, build_optimizers
from autowarmup.training.rng import seed_everything
from autowarmup.training.settings import TrainSettings
from autowarmup.values import short


class Recipe:
    """How to train: builds models and optimizers, and computes losses.

    Args:
        model_fn: builds a fresh model; called under a seed.
        data: what to train on and to validate with.
        loss: ``loss(output, target)``; None where it is inferred, or the model's own.
        optimizer: builds the optimizer, or several; None for AdamW with PyTorch's defaults.
        metrics: further validation metrics by name, ``metric(output, target)``.
        settings: batch size, accumulation, clipping, precision, device.
        groups: the parameter groups that may have learning rates of their own; None for one curve.

    Attributes:
        partly_used: whether some of the model's parameters take no part in the loss.
        group: the processes that train the model together.
        input_names: which entries of a mapping the model takes; of the model that was built last.

    Raises:
        InputError: one of the functions isn't one, or the device can't be used.
    """

    def __init__(
        self,
        model_fn: Callable[[], nn.Module],
        data: Any,
        *,
        loss: Loss | None = None,
        optimizer: OptimizerFactory | None = None,
        metrics: dict[str, Loss] | None = None,
        settings: TrainSettings | None = None,
        groups: Groups | None = None,
    ) -> None:
        _check_functions(model_fn, loss, optimizer, metrics)
        self.settings = settings or TrainSettings()
        self.device = best_device() if self.settings.device is None else _named_device(self.settings.device)
        self.model_fn = model_fn
        self.data = Data(data, self.settings.batch_size)
        self.loss = loss
        self.optimizer_fn: OptimizerFactory = optimizer or torch.optim.AdamW
        self.metrics = metrics or {}
        self.groups = groups
        self.group = Group()
        self.partly_used = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process: on the device that is the best there, where none was named."""
        self.__dict__ |= state
        if self.settings.device is None:
            self.device = best_device()

    def build_model(self, seed: int) -> nn.Module:
        """A model with the initial weights of ``seed``, on the device."""
        seed_everything(derive_seed(seed, "model"), self.device)
        try:
            model = self.model_fn()
        except Exception as error:
            raise InputError(f"model_fn raised {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise InputError(f"model_fn must return a torch.nn.Module, got {type(model).__name__}")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("the model has no parameters to train: none, or all with requires_grad=False")
        if any(is_lazy(parameter) for parameter in model.parameters()):
            raise InputError(
                "the model's lazy modules have no shapes yet: model_fn must run a batch through them first"
            )
        if any(parameter.is_meta for parameter in model.parameters()):
            raise InputError("the model is on the device 'meta', without values: model_fn must build it with weights")
        self.input_names = InputNames.of(model)
        return model.to(self.device)

    def build_optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """The model's optimizers; see :func:`autowarmup.training.optimizers.build_optimizers`. Their parameter groups
        are named, where the recipe has groups."""
        optimizers = build_optimizers(self.optimizer_fn, model)
        if self.groups is not None:
            name_groups(optimizers, model, self.groups)
        return optimizers

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        """The loss of a batch, and the model's output."""
        output = output_of(model, batch, self.input_names)
        if self.loss is not None:
            return self.loss(output, target_of(batch)), output
        own = own_loss(output)
        return (inferred_loss(output, target_of(batch)) if own is None else own), output


def best_device() -> torch.device:
    """CUDA or MPS where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _named_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device


def _check_functions(model_fn: Any, loss: Any, optimizer: Any, metrics: Any) -> None:
    if not callable(model_fn) or isinstance(model_fn, nn.Module):
        raise InputError(
            f"model_fn must be a function that builds a fresh model, got {type(model_fn).__name__}: "
            f"for a class or a call, pass lambda: YourModel(...)"
        )
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a function loss(output, target), got {short(loss)}")
    if optimizer is not None and (not callable(optimizer) or isinstance(optimizer, torch.optim.Optimizer)):
        raise InputError(
            f"optimizer must be a function that takes parameters, such as "
            f"lambda params: torch.optim.AdamW(params, lr=3e-4), got {type(optimizer).__name__}"
        )
    if metrics is not None and not (isinstance(metrics, dict) and all(callable(metric) for metric in metrics.values())):
        raise InputError(f"metrics must be functions metric(output, target) by name, got {short(metrics)}")
    for name in metrics or {}:
        if not isinstance(name, str):
            raise InputError(f"metrics must be functions metric(output, target) by name, got the name {short(name)}")
        if name == "loss" or name.endswith("_ema"):
            raise InputError(f"a metric can't be called {name!r}: that name is taken")
