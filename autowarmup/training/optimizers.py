"""The optimizers of a model: one, or several that share its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from autowarmup.errors import InputError
from autowarmup.schedule.groups import listed

OptimizerFactory = Callable[[Any], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]
"""Builds the optimizer, or several, from the parameters that are trained; from the model or from pairs of names and
parameters where its argument is called ``model`` or ``named_parameters``."""


def build_optimizers(factory: OptimizerFactory, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers that ``factory`` makes for ``model``. Together they train each of its parameters once.

    Raises:
        InputError: the factory raised or returned something else, there is no learning rate above 0, or a parameter
            has no optimizer or two of them.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> def two(model):
        ...     return [torch.optim.SGD([model.weight], lr=0.02), torch.optim.AdamW([model.bias], lr=3e-4)]
        >>> [type(optimizer).__name__ for optimizer in build_optimizers(two, model)]
        ['SGD', 'AdamW']
    """
    try:
        made = factory(_argument(factory, model))
    except Exception as error:
        raise InputError(f"optimizer raised {type(error).__name__}: {error}") from error
    optimizers: list[Any] = list(made) if isinstance(made, list | tuple) else [made]
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(
                f"optimizer must return a torch.optim.Optimizer or a list of them, got {type(optimizer).__name__}"
            )
    _check_learning_rates(optimizers)
    _check_parameters(optimizers, model)
    return optimizers


def groups_of(optimizers: Iterable[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    """The parameter groups of all the optimizers."""
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def parameters_of(optimizers: Iterable[torch.optim.Optimizer]) -> list[nn.Parameter]:
    """The parameters of all the optimizers, group by group."""
    return [parameter for group in groups_of(optimizers) for parameter in group["params"]]


def highest_lr(optimizers: Iterable[torch.optim.Optimizer]) -> float:
    """The highest learning rate of all parameter groups."""
    return max(float(group["lr"]) for group in groups_of(optimizers))


def beta2_of(optimizers: Iterable[torch.optim.Optimizer]) -> float:
    """The second-moment decay of the first optimizer that has one, 0.999 where none has."""
    betas = (group["betas"] for group in groups_of(optimizers) if group.get("betas"))
    return float(next(betas, (0.9, 0.999))[1])


def _argument(factory: OptimizerFactory, model: nn.Module) -> Any:
    try:
        first = next(iter(inspect.signature(factory).parameters), "params")
    except (TypeError, ValueError):
        first = "params"
    if first == "model":
        return model
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return trained if first == "named_parameters" else [parameter for _, parameter in trained]


def _check_learning_rates(optimizers: list[torch.optim.Optimizer]) -> None:
    names = " and ".join(type(optimizer).__name__ for optimizer in optimizers)
    if not optimizers:
        raise InputError("optimizer returned an empty list")
    lrs = [group.get("lr") for group in groups_of(optimizers)]
    if not max(0.0 if lr is None else float(lr) for lr in lrs) > 0.0 or None in lrs:
        raise InputError(f"{names} has no learning rate above 0: its groups have {lrs}")


def _check_parameters(optimizers: list[torch.optim.Optimizer], model: nn.Module) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trained = [*map(id, parameters_of(optimizers))]
    twice = sorted({names[key] for key in trained if trained.count(key) > 1 and key in names})
    if twice:
        raise InputError(f"{listed(twice)}: in two optimizers or parameter groups; each parameter must be in one")
    left = [name for key, name in names.items() if key not in set(trained)]
    if left:
        raise InputError(
            f"the optimizer doesn't train all of the model's parameters: {listed(left)} would stay as initialised. To "
            f"freeze them, set requires_grad=False in model_fn; to train them with another optimizer, return several, "
            f"such as optimizer=lambda model: [Muon(matrices_of(model), lr=0.02), AdamW(others_of(model), lr=3e-4)]"
        )
