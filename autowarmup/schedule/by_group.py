"""What a schedule does for each of its groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autowarmup.schedule.applicable import Applicable
from autowarmup.schedule.groups import ParameterGroup, Plan, rate_of

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class HasGroups(Plan, Protocol):
    """A schedule with its groups."""

    @property
    def groups(self) -> tuple[ParameterGroup, ...]: ...

    def rates_at(self, step: int) -> dict[str, float]: ...

    def frozen_at(self, step: int) -> frozenset[str]: ...


class ByGroup(Applicable):
    """The methods of a schedule that may have groups. Without groups it treats all parameters alike."""

    def rates_at(self: HasGroups, step: int) -> dict[str, float]:
        """The learning rate of each group at an optimizer step, counted from 0, by the group's name: 0 while it is
        frozen. Without groups there are none.

        Raises:
            InputError: ``step`` is not a whole number, or negative.
        """
        whole = self.lr_at(step)
        return {group.name: rate_of(group, self, step, whole) for group in self.groups}

    def curves(self: HasGroups) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """All rates of each group, shape ``(horizon,)``, by the group's name."""
        rates = [self.rates_at(step) for step in range(self.horizon)]
        return {group.name: np.array([rate[group.name] for rate in rates]) for group in self.groups}

    def frozen_at(self: HasGroups, step: int) -> frozenset[str]:
        """The names of the groups that are frozen at an optimizer step."""
        return frozenset(group.name for group in self.groups if step < group.frozen_steps)

    @property
    def treatment(self: HasGroups) -> str:
        """How the groups are treated, in a few words: ``"groups to x 0.1"`` with the lowest ratio, ``"unfreezing to x
        0.1"`` where some are frozen at first; ``"one curve"`` without groups.
        """
        if not self.groups:
            return "one curve"
        way = "unfreezing" if any(group.frozen_steps for group in self.groups) else "groups"
        return f"{way} to x {min(group.ratio for group in self.groups):.2g}"

    def parameter_groups(self: HasGroups, model: nn.Module) -> list[dict[str, Any]]:
        """A model's trained parameters as an optimizer takes them: a dictionary for each group, with its ``"name"``.
        Without groups there is one, with all of them.

        Raises:
            InputError: the groups' patterns don't fit the model; the message says which, and what there is.

        Example:
            >>> import torch
            >>> from autowarmup import Schedule
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
            >>> backbone = {"name": "backbone", "parameters": "0.*", "ratio": 0.1}
            >>> schedule = Schedule(peak=1e-2, horizon=100, groups=[backbone, {"name": "head", "parameters": "2.*"}])
            >>> optimizer = torch.optim.AdamW(schedule.parameter_groups(model), lr=schedule.peak)
            >>> scheduler = schedule.scheduler(optimizer)
            >>> {group["name"]: group["lr"] for group in optimizer.param_groups}
            {'backbone': 0.001, 'head': 0.01}
        """
        if not self.groups:
            return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]
        from autowarmup.schedule.freezing import parameters_by_pattern

        found = parameters_by_pattern(model, {group.name: group.parameters for group in self.groups})
        return [{"name": name, "params": parameters} for name, parameters in found.items()]

    def freeze(self: HasGroups, model: nn.Module, step: int, optimizer: Optimizer | None = None) -> None:
        """Freezes the groups that are frozen at an optimizer step, and thaws the others. Call it before each step,
        after ``model.train()``.

        A frozen parameter has ``requires_grad=False``: it has no gradient, no weight decay and no optimizer state.
        Batch normalisation in frozen groups is in evaluation mode, so that its running statistics stay. Parameters
        that you froze yourself stay so.

        Args:
            model: the model.
            step: the number of the optimizer step that comes next, counted from 0.
            optimizer: whose named parameter groups say what is in a group; left out, the groups' patterns do.

        Raises:
            InputError: the groups aren't found in the model or the optimizer.
        """
        if not self.groups:
            return
        from autowarmup.schedule.freezing import Freezing, parameters_by_pattern, parameters_of_optimizer

        if optimizer is None:
            found = parameters_by_pattern(model, {group.name: group.parameters for group in self.groups})
        else:
            found = parameters_of_optimizer(optimizer, [group.name for group in self.groups])
        Freezing(model, found).apply(self.frozen_at(step))
