"""The parameter groups of a study in a model's optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from autowarmup.errors import InputError
from autowarmup.schedule.groups import Patterns, assigned, listed

Groups = Patterns | Literal["optimizer"]
"""Patterns over parameter names by the group's name, from the input to the output; or the optimizer's own names."""


def name_groups(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module, groups: Groups) -> Patterns:
    """Has each of the optimizers' parameter groups named after one group. Where they mix several, they are split, and
    the parts keep their settings.

    Args:
        optimizers: those of a model, before their first step.
        model: the model.
        groups: patterns by name, or ``"optimizer"`` where the optimizers have named groups.

    Returns:
        The patterns by name, in order; none for the optimizer's own groups.

    Raises:
        InputError: the patterns don't fit the model, or the optimizer's groups have no names.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> patterns = name_groups([optimizer], model, {"backbone": ["0.*"], "head": ["1.*"]})
        >>> [(group["name"], len(group["params"]), group["lr"]) for group in optimizer.param_groups]
        [('backbone', 2, 0.1), ('head', 2, 0.1)]
    """
    if isinstance(groups, str):
        return dict.fromkeys(_own_names(optimizers), ())
    named = dict(model.named_parameters())
    trained = [name for name, parameter in named.items() if parameter.requires_grad]
    found = assigned(groups, trained, [name for name in named if name not in set(trained)])
    of_parameter = {id(named[name]): group for name, group in found.items()}
    for optimizer in optimizers:
        optimizer.param_groups[:] = [
            part for group in optimizer.param_groups for part in _split(group, of_parameter, list(groups))
        ]
    return groups


def _own_names(optimizers: Sequence[torch.optim.Optimizer]) -> list[str]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    unnamed = [number for number, group in enumerate(groups) if not isinstance(group.get("name"), str)]
    if unnamed:
        raise InputError(
            f'groups="optimizer": parameter group {unnamed[0]} of the optimizer has no name: give each one, such as '
            f'{{"params": ..., "name": "backbone"}}, or give patterns: groups={{"backbone": "encoder.*", ...}}'
        )
    names = list(dict.fromkeys(group["name"] for group in groups))
    if len(names) == 1:
        raise InputError(f'groups="optimizer": the optimizer\'s groups must have two names at least, got {names}')
    return names


def _split(group: dict[str, Any], of_parameter: dict[int, str], names: list[str]) -> list[dict[str, Any]]:
    """A parameter group as one part for each group; parameters that aren't trained go with the first."""
    parts = []
    theirs = [of_parameter.get(id(parameter)) for parameter in group["params"]]
    first = next((name for name in theirs if name), names[0])
    for name in names:
        kept = [place for place, other in enumerate(theirs) if (other or first) == name]
        if kept:
            lists = {key: [group[key][i] for i in kept] for key in ("params", "param_names") if key in group}
            parts.append(group | lists | {"name": name})
    return parts


def description(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module) -> dict[str, str]:
    """The names of each group's parameters, shortened, by the group's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[str]] = {}
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        found.setdefault(group["name"], []).extend(names.get(id(one), "?") for one in group["params"])
    return {group: listed(members) for group, members in found.items()}
