"""Frozen groups in a model: their parameters take no gradients, and their running statistics stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from autowarmup.errors import InputError
from autowarmup.schedule.groups import Patterns, assigned, checked_name

MARK = "_frozen_by_schedule"
"""Marks what a schedule has frozen, so that it thaws nothing that the user froze."""


class Freezing:
    """Freezes and thaws the groups of a model.

    A frozen parameter has ``requires_grad=False``: it gets no gradient, no weight decay and no optimizer state. Batch
    normalisation in frozen parts is in evaluation mode, so its running statistics stay. A layer of it without weights
    is frozen where all parameters of the module around it are.

    Args:
        model: the model.
        groups: its parameters by the group's name.
    """

    def __init__(self, model: nn.Module, groups: Mapping[str, list[Parameter]]) -> None:
        self._groups = groups
        self._norms = list(_norms(model))
        self._model = model

    def apply(self, frozen: Collection[str]) -> None:
        """Freezes these groups and thaws the others. Call it after ``model.train()``."""
        for name, parameters in self._groups.items():
            for parameter in parameters:
                _freeze(parameter, name in frozen)
        for norm, owners in self._norms:
            stays = all(getattr(parameter, MARK, False) for parameter in owners)
            if stays or getattr(norm, MARK, False):
                norm.train(self._model.training and not stays)
                setattr(norm, MARK, stays)


def parameters_of_optimizer(optimizer: Optimizer, names: Collection[str]) -> dict[str, list[Parameter]]:
    """The parameters of each group, by the names of the optimizer's parameter groups."""
    found: dict[str, list[Parameter]] = {name: [] for name in names}
    for group in optimizer.param_groups:
        found[checked_name(group, list(names))] += group["params"]
    return found


def parameters_by_pattern(model: nn.Module, groups: Patterns) -> dict[str, list[Parameter]]:
    """The trained parameters of each group, those that a schedule has frozen included.

    Raises:
        InputError: the patterns don't fit the model; see :func:`autowarmup.schedule.groups.assigned`.
    """
    without = [name for name, patterns in groups.items() if not patterns]
    if without:
        raise InputError(
            f"the schedule's group {without[0]!r} has no patterns of parameter names, such as "
            f"parameters='encoder.*': give them, or the optimizer, whose groups are named"
        )
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad or getattr(one, MARK, False)}
    others = [name for name, _ in model.named_parameters() if name not in trained]
    found: dict[str, list[Parameter]] = {name: [] for name in groups}
    for name, group in assigned(groups, list(trained), others).items():
        found[group].append(trained[name])
    return found


def _freeze(parameter: Parameter, frozen: bool) -> None:
    if frozen and parameter.requires_grad:
        parameter.requires_grad_(False)
        setattr(parameter, MARK, True)
    elif not frozen and getattr(parameter, MARK, False):
        parameter.requires_grad_(True)
        setattr(parameter, MARK, False)


def _norms(model: nn.Module) -> Iterable[tuple[nn.Module, list[Parameter]]]:
    """Layers with running statistics, each with the parameters that it goes with: its own, or those of the nearest
    module around it that has any."""
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, _NormBase) and module.running_mean is not None:
            around = module
            while not (owners := list(around.parameters())) and name:
                name = name.rpartition(".")[0]
                around = modules[name]
            if owners:
                yield module, owners
